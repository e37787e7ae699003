// Normalisation and the cutting of text, seen through tokenizers whose tokens are whole pieces.
#include <gtest/gtest.h>

#include "tests/text/tokenizer_specs.h"
#include "text/tokenizer_normalizer.h"
#include "text/tokenizer_splitter.h"

namespace lserve {
namespace {

using Pieces = std::vector<std::string>;
using Step = TokenizerSpec::SplitStep;

Pieces Split(const std::vector<Step>& steps, const std::string& input, bool at_start = true) {
  Result<text::Splitter> splitter = text::Splitter::Create(steps);
  EXPECT_TRUE(splitter.ok()) << splitter.status().ToString();
  text::RegexScratch scratch;
  Pieces pieces;
  splitter->Split(input, at_start, &scratch,
                  [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

Pieces SplitAs(const std::string& pre, const std::string& input) {
  TokenizerSpec spec;
  EXPECT_TRUE(ApplyGgufPreTokenizer(pre, &spec).ok());
  return Split(spec.split, input);
}

TEST(Split, PreTokenizersOfKnownModels) {
  EXPECT_EQ(SplitAs("gpt-2", "I'll go  2024!"), (Pieces{"I", "'ll", " go", " ", " 2024", "!"}));
  EXPECT_EQ(SplitAs("smollm", "a 2024"), (Pieces{"a", " ", "2", "0", "2", "4"}));
  EXPECT_EQ(SplitAs("qwen2", "I'LL x=2024\n\n y"),
            (Pieces{"I", "'LL", " x", "=", "2", "0", "2", "4", "\n\n", " y"}));
  EXPECT_EQ(SplitAs("llama-bpe", "x 12345"), (Pieces{"x", " ", "123", "45"}));
  EXPECT_EQ(SplitAs("tekken", "helloWorld"), (Pieces{"hello", "World"}));
  EXPECT_EQ(SplitAs("default", "a,b 1234"), (Pieces{"a", ",", "b", " ", "123", "4"}));
  TokenizerSpec spec;
  EXPECT_NE(ApplyGgufPreTokenizer("no-such", &spec).message().find("no-such"), std::string::npos);
}

TEST(Split, WhiteSpaceIsUnicodes) {
  Step spaces;
  spaces.pattern = R"(\s+)";
  EXPECT_EQ(Split({spaces},
                  "a\xc2\x85\xe3\x80\x80"
                  "b"),
            (Pieces{"a", "\xc2\x85\xe3\x80\x80", "b"}));
  EXPECT_EQ(Split({spaces},
                  "a\xe1\xa0\x8e"
                  "b"),
            (Pieces{"a\xe1\xa0\x8e"
                    "b"}));  // U+180E
  spaces.pattern = R"([\S]+)";
  EXPECT_EQ(Split({spaces}, "ab c"), (Pieces{"ab", " ", "c"}));
}

TEST(Split, Behaviors) {
  using B = Step::Behavior;
  Step step;
  step.kind = Step::Kind::kString;
  step.pattern = "-";
  const auto with = [&](B behavior, bool invert = false) {
    step.behavior = behavior;
    step.invert = invert;
    return Split({step}, "a--b-c");
  };
  EXPECT_EQ(with(B::kIsolated), (Pieces{"a", "-", "-", "b", "-", "c"}));
  EXPECT_EQ(with(B::kRemoved), (Pieces{"a", "b", "c"}));
  EXPECT_EQ(with(B::kRemoved, true), (Pieces{"-", "-", "-"}));
  EXPECT_EQ(with(B::kMergedWithPrevious), (Pieces{"a-", "-", "b-", "c"}));
  EXPECT_EQ(with(B::kMergedWithNext), (Pieces{"a", "-", "-b", "-c"}));
  EXPECT_EQ(with(B::kContiguous), (Pieces{"a", "--", "b", "-", "c"}));
}

TEST(Split, MetaspaceAndPrefixSpace) {
  Step step;
  step.kind = Step::Kind::kMetaspace;
  step.pattern = "_";
  EXPECT_EQ(Split({step}, "a  b"), (Pieces{"_a", "_", "_b"}));
  EXPECT_EQ(Split({step}, " a", false), (Pieces{"_a"}));
  step.prepend = Step::Prepend::kFirst;
  EXPECT_EQ(Split({step}, "a b", false), (Pieces{"a", "_b"}));
  step.split = false;
  EXPECT_EQ(Split({step}, "a b"), (Pieces{"_a_b"}));
  step = {};
  step.kind = Step::Kind::kPrefixSpace;
  EXPECT_EQ(Split({step}, "a b"), (Pieces{" a b"}));
  EXPECT_EQ(Split({step}, " a"), (Pieces{" a"}));
}

TEST(Split, AHostilePatternLeavesTheTextWhole) {
  Step step;
  step.pattern = R"((?:a|aa)+$|(?:(?:a+)+)+b)";
  const std::string text = std::string(60, 'a') + "c";
  EXPECT_EQ(Split({step}, text), Pieces{text});
}

TEST(Normalize, Forms) {
  using text::NormalForm;
  const std::string composed = "\xc3\xa9", apart = "e\xcc\x81", ligature = "\xef\xac\x81";
  EXPECT_EQ(text::Normalize(apart, NormalForm::kNfc), composed);
  EXPECT_EQ(text::Normalize(composed, NormalForm::kNfd), apart);
  EXPECT_EQ(text::Normalize(ligature, NormalForm::kNfc), ligature);
  EXPECT_EQ(text::Normalize(ligature, NormalForm::kNfkc), "fi");
  // Two marks in canonical order, and Hangul.
  EXPECT_EQ(text::Normalize("q\xcc\x87\xcc\xa3", NormalForm::kNfc), "q\xcc\xa3\xcc\x87");
  EXPECT_EQ(text::Normalize("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", NormalForm::kNfc),
            "\xed\x95\x9c");
}

TEST(Normalize, ALongRunOfMarksIsNotQuadratic) {
  std::string marks, sorted;
  for (int i = 0; i < 200000; ++i) marks += "\xcc\x81\xcc\xa3";  // classes 230 and 220 in turn
  for (int i = 0; i < 200000; ++i) sorted += "\xcc\xa3";
  for (int i = 0; i < 200000; ++i) sorted += "\xcc\x81";
  EXPECT_EQ(text::Normalize("\n" + marks, text::NormalForm::kNfc), "\n" + sorted);
}

}  // namespace
}  // namespace lserve
