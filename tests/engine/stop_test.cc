#include "engine/stop.h"

#include <gtest/gtest.h>

#include <random>

namespace lserve {
namespace {

struct Outcome {
  std::string text;
  std::optional<std::string> stop;
  bool operator==(const Outcome&) const = default;
};

Outcome Feed(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopMatcher matcher(stops);
  Outcome out;
  for (const std::string& piece : pieces) out.text += matcher.Push(piece);
  out.text += matcher.Finish();
  out.stop = matcher.stopped();
  return out;
}

TEST(StopMatcher, AcrossPieces) {
  EXPECT_EQ(Feed({"lo w"}, {"hel", "lo", " ", "world"}), (Outcome{"hel", "lo w"}));
  EXPECT_EQ(Feed({"zzz"}, {"a", "zz", "b"}), (Outcome{"azzb", std::nullopt}));
  EXPECT_EQ(Feed({"zzz"}, {"a", "zz"}), (Outcome{"azz", std::nullopt}));
  EXPECT_EQ(Feed({}, {"a", "b"}), (Outcome{"ab", std::nullopt}));
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"STOP", "\n\n"});
  EXPECT_EQ(matcher.Push("text S"), "text ");
  EXPECT_EQ(matcher.Push("T"), "");
  EXPECT_EQ(matcher.Push("x\n"), "STx");
  EXPECT_EQ(matcher.Push("y"), "\ny");
  EXPECT_EQ(matcher.Push("abSTO"), "ab");
  EXPECT_EQ(matcher.Push("P and more"), "");
  EXPECT_EQ(matcher.stopped(), "STOP");
  EXPECT_EQ(matcher.Push("ignored"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

// The definition: the prefix of the text at whose end a stop string ends first, longest of them.
Outcome Definition(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<std::string> best;
    for (const std::string& stop : stops)
      if (end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0 &&
          (!best || stop.size() > best->size()))
        best = stop;
    if (best) return {text.substr(0, end - best->size()), best};
  }
  return {text, std::nullopt};
}

TEST(StopMatcher, DoesNotDependOnHowTheTextIsCut) {
  std::mt19937 random(1);
  int stopped = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto letters = [&](int most) {
      std::string s;
      for (int n = 1 + static_cast<int>(random() % most); n > 0; --n) s += "ab"[random() % 2];
      return s;
    };
    std::vector<std::string> stops, pieces;
    for (int n = static_cast<int>(random() % 4); n > 0; --n) stops.push_back(letters(6));
    std::string text;
    for (int n = static_cast<int>(random() % 8); n > 0; --n)
      text += pieces.emplace_back(letters(5));
    const Outcome expected = Definition(stops, text);
    ASSERT_EQ(Feed(stops, pieces).text, expected.text) << text;
    ASSERT_EQ(Feed(stops, pieces).stop, expected.stop) << text;
    stopped += expected.stop.has_value();
  }
  EXPECT_GT(stopped, 500);
}

}  // namespace
}  // namespace lserve
