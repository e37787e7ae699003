// UTF-8 repair and StreamDecoder: whole characters only, and together what Decode gives.
#include <gtest/gtest.h>

#include <random>

#include "tests/text/tokenizer_specs.h"
#include "text/utf8.h"

namespace lserve {
namespace {

std::string Repair(std::string_view bytes) {
  std::string out;
  text::AppendValidUtf8(bytes, &out);
  return out;
}

TEST(Utf8, OneReplacementForEachMaximalSubpart) {
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(Repair("a\xff"
                   "b"),
            "a" + r + "b");
  EXPECT_EQ(Repair("\xc0\x80"), r + r);
  EXPECT_EQ(Repair("\xe2\x82"), r);
  EXPECT_EQ(Repair("\xe2\x82\xe2\x82\xac"), r + "\xe2\x82\xac");
  EXPECT_EQ(Repair("\xed\xa0\x80"), r + r + r);  // a surrogate
  EXPECT_EQ(Repair("\xf0\x9f\x98"), r);
  EXPECT_EQ(Repair("\xf0\x80\x80\x80"), r + r + r + r);
  EXPECT_EQ(Repair("\xf4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(Repair("\xf1\x80\x80"
                   "a"),
            r + "a");
}

TEST(Utf8, EveryCharacterSurvives) {
  for (char32_t code = 0; code < 0x110000; code += 97) {
    if (code >= 0xd800 && code < 0xe000) continue;
    std::string text;
    text::AppendUtf8(code, &text);
    ASSERT_TRUE(text::IsValidUtf8(text)) << text;
    const text::Utf8Char c = text::DecodeUtf8(text, 0);
    ASSERT_TRUE(c.code == code);
    ASSERT_EQ(static_cast<size_t>(c.length), text.size());
  }
}

TEST(StreamDecoder, GivesWholeCharactersOnly) {
  const auto tokenizer = ByteLevel({});
  StreamDecoder stream(tokenizer.get());
  EXPECT_EQ(stream.Push(0xf0), "");
  EXPECT_EQ(stream.Push(0x9f), "");
  EXPECT_EQ(stream.Push(0x98), "");
  EXPECT_EQ(stream.Push(0x80), "\xf0\x9f\x98\x80");
  EXPECT_EQ(stream.Push(0xe2), "");
  EXPECT_EQ(stream.Push('a'),
            "\xef\xbf\xbd"
            "a");
  EXPECT_EQ(stream.Push(0xc3), "");
  EXPECT_EQ(stream.Finish(), "\xef\xbf\xbd");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(StreamDecoder, PiecesTogetherAreDecode) {
  TokenizerSpec spec = ByteLevelSpec({});
  spec.added.emplace_back();
  spec.added[0].id = 300;
  spec.added[0].text = "<s>";
  spec.added[0].special = true;
  for (const bool strip : {false, true}) {
    spec.strip_leading_space = strip;
    const auto tokenizer = Make(spec);
    std::mt19937 random(3);
    for (int trial = 0; trial < 500; ++trial) {
      std::vector<int32_t> ids;
      std::string bytes;
      for (int i = 0; i < 12; ++i) {
        const int32_t id =
            random() % 8 == 0
                ? 300
                : static_cast<int32_t>(random() % 2 ? 0x80 + random() % 128 : 0x20 + random() % 2);
        ids.push_back(id);
        if (id < 256) bytes += static_cast<char>(id);
      }
      StreamDecoder stream(tokenizer.get());
      std::string text;
      for (const int32_t id : ids) {
        const std::string piece = stream.Push(id);
        EXPECT_TRUE(text::IsValidUtf8(piece));
        text += piece;
      }
      text += stream.Finish();
      if (strip && bytes.starts_with(' ')) bytes.erase(0, 1);
      EXPECT_EQ(text, Repair(bytes));
      EXPECT_EQ(text, tokenizer->Decode(ids));
    }
  }
}

}  // namespace
}  // namespace lserve
