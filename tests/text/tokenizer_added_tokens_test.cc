// Added tokens: longest match, white space, word borders, and that ordinary text cannot forge them.
#include <gtest/gtest.h>

#include "tests/text/tokenizer_specs.h"

namespace lserve {
namespace {

using Ids = std::vector<int32_t>;

TokenizerSpec::AddedToken Token(int32_t id, const std::string& text, bool special = true) {
  TokenizerSpec::AddedToken token;
  token.id = id;
  token.text = text;
  token.special = special;
  return token;
}

TEST(AddedTokens, TheLongestMatchCounts) {
  TokenizerSpec spec = ByteLevelSpec({});
  spec.added = {Token(300, "<a"), Token(301, "<a>"), Token(302, "<a><b>"), Token(303, "x", false)};
  const auto tokenizer = Make(spec);
  EXPECT_EQ(tokenizer->Encode("<a><b><a>x<a", false, true), (Ids{302, 301, 303, 300}));
  EXPECT_EQ(tokenizer->Encode("<a><bx", false, true), (Ids{301, '<', 'b', 303}));
  EXPECT_EQ(tokenizer->vocab_size(), 304);
  EXPECT_TRUE(tokenizer->is_special(301));
  EXPECT_FALSE(tokenizer->is_special(303));
  EXPECT_FALSE(tokenizer->is_special('x'));
  EXPECT_EQ(tokenizer->Find("<a>"), 301);
  EXPECT_EQ(tokenizer->Find("nothing"), -1);
}

TEST(AddedTokens, OrdinaryTextCannotForgeASpecialToken) {
  TokenizerSpec spec = ByteLevelSpec({{"<", "s"}, {"<s", ">"}});
  const int32_t special = static_cast<int32_t>(spec.vocab.size()) - 1;
  ASSERT_EQ(spec.vocab[special], "<s>");
  spec.added = {Token(special, "<s>")};
  spec.split.clear();  // the whole text is one piece
  for (const bool ignore_merges : {false, true}) {
    spec.ignore_merges = ignore_merges;
    const auto tokenizer = Make(spec);
    EXPECT_EQ(tokenizer->Encode("<s>", false, true), Ids{special});
    EXPECT_EQ(tokenizer->Encode("<s>", false, false), (Ids{special - 1, '>'}));
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode("a<s>b", false, false)), "a<s>b");
  }
}

TEST(AddedTokens, ASpecialTokenOfOneCharacterIsOrdinaryTextToo) {
  TokenizerSpec spec = ByteLevelSpec({});
  spec.added = {Token('!', "!")};
  EXPECT_EQ(Make(spec)->Encode("a!", false, false), (Ids{'a', '!'}));
}

TEST(AddedTokens, TakeWhiteSpaceAlong) {
  TokenizerSpec spec = ByteLevelSpec({});
  spec.split.clear();
  spec.added = {Token(300, "L"), Token(301, "R"), Token(302, "B")};
  spec.added[0].lstrip = true;
  spec.added[1].rstrip = true;
  spec.added[2].lstrip = spec.added[2].rstrip = true;
  const auto tokenizer = Make(spec);
  EXPECT_EQ(tokenizer->Encode("a  L b", false, true), (Ids{'a', 300, ' ', 'b'}));
  EXPECT_EQ(tokenizer->Encode("a R \xc2\xa0 b", false, true), (Ids{'a', ' ', 301, 'b'}));
  EXPECT_EQ(tokenizer->Encode("a \n B\t b", false, true), (Ids{'a', 302, 'b'}));
  EXPECT_EQ(tokenizer->Encode("R  L", false, true), (Ids{301, 300}));
}

TEST(AddedTokens, SingleWordsStandAlone) {
  TokenizerSpec spec = ByteLevelSpec({});
  spec.added = {Token(300, "ox", false)};
  spec.added[0].single_word = true;
  const auto tokenizer = Make(spec);
  EXPECT_EQ(tokenizer->Encode("ox", false, true), Ids{300});
  EXPECT_EQ(tokenizer->Encode("(ox)", false, true), (Ids{'(', 300, ')'}));
  EXPECT_EQ(tokenizer->Encode("oxe", false, true), (Ids{'o', 'x', 'e'}));
  EXPECT_EQ(tokenizer->Encode("_ox", false, true), (Ids{'_', 'o', 'x'}));
  EXPECT_EQ(tokenizer->Encode("\xc3\xa9ox", false, true), (Ids{0xc3, 0xa9, 'o', 'x'}));
}

TEST(AddedTokens, NormalizedTokensAreFoundInNormalizedText) {
  TokenizerSpec spec = ByteLevelSpec({});
  spec.normalize.emplace_back();  // NFC
  spec.added = {Token(300, "e\xcc\x81", false), Token(301, "o\xcc\x81", false)};
  spec.added[0].normalized = true;
  const auto tokenizer = Make(spec);
  EXPECT_EQ(tokenizer->Encode("\xc3\xa9", false, true), Ids{300});
  EXPECT_EQ(tokenizer->Encode("e\xcc\x81", false, true), Ids{300});
  EXPECT_EQ(tokenizer->Encode("o\xcc\x81", false, true), Ids{301});
  EXPECT_EQ(tokenizer->Encode("\xc3\xb3", false, true), (Ids{0xc3, 0xb3}));
}

TEST(AddedTokens, SpecialTokensAroundAText) {
  TokenizerSpec spec = ByteLevelSpec({});
  spec.added = {Token(300, "<s>"), Token(301, "</s>")};
  spec.prefix = {300};
  spec.suffix = {301};
  const auto tokenizer = Make(spec);
  EXPECT_EQ(tokenizer->Encode("a", true, false), (Ids{300, 'a', 301}));
  EXPECT_EQ(tokenizer->Encode("", true, false), (Ids{300, 301}));
  EXPECT_EQ(tokenizer->Decode({300, 'a', 301}), "a");
  EXPECT_EQ(tokenizer->Decode({300, 'a', 301}, true), "<s>a</s>");
  EXPECT_EQ(tokenizer->Decode({-1, 'a', 302, 1 << 30}), "a");
}

TEST(AddedTokens, HostileSpecsAreErrors) {
  const auto error = [](const TokenizerSpec& spec) {
    Result<std::unique_ptr<Tokenizer>> made = Tokenizer::Create(spec);
    return made.ok() ? std::string() : made.status().message();
  };
  const auto with = [](auto change) {
    TokenizerSpec spec = ByteLevelSpec({{"a", "b"}});
    change(spec);
    return spec;
  };
  using S = TokenizerSpec&;
  EXPECT_NE(error(TokenizerSpec()).find("vocab"), std::string::npos);
  EXPECT_NE(error(with([](S s) { s.merges.emplace_back("a", "nothing"); })).find("merges[1]"),
            std::string::npos);
  EXPECT_NE(error(with([](S s) { s.added = {Token(-1, "x")}; })).find("added_tokens"),
            std::string::npos);
  EXPECT_NE(error(with([](S s) { s.added = {Token(1 << 30, "x")}; })).find("added_tokens"),
            std::string::npos);
  EXPECT_NE(error(with([](S s) { s.added = {Token(300, "\xff")}; })).find("UTF-8"),
            std::string::npos);
  EXPECT_NE(error(with([](S s) { s.unk = 5000; })).find("unk_token"), std::string::npos);
  EXPECT_NE(error(with([](S s) { s.bos = 5000; })).find("bos_token"), std::string::npos);
  EXPECT_NE(error(with([](S s) { s.prefix = {-7}; })).find("post_processor"), std::string::npos);
  EXPECT_NE(error(with([](S s) { s.split[0].pattern = "(a"; })).find("(a"), std::string::npos);
  EXPECT_NE(error(with([](S s) { s.split[0].pattern = "[a&&b]"; })).find("&&"), std::string::npos);
  EXPECT_NE(error(with([](S s) { s.split[0].pattern = R"(\bx)"; })).find("\\b"), std::string::npos);
  EXPECT_NE(error(with([](S s) { s.vocab.resize(1'000'001); })).find("limit"), std::string::npos);
}

}  // namespace
}  // namespace lserve
