// SentencePiece-style BPE and GGUF metadata on a small vocabulary.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/text/tokenizer_specs.h"
#include "text/gguf_tokenizer.h"

namespace lserve {
namespace {

using Ids = std::vector<int32_t>;
constexpr char kSpace[] = "\xe2\x96\x81";

// Scores fall with the id; "ab" and "bc" share one.
GgufTokenizer Gguf() {
  GgufTokenizer gguf;
  gguf.model = "llama";
  gguf.tokens = {"<unk>", "<s>", "</s>"};
  gguf.token_types = {2, 3, 3};
  for (int b = 0; b < 256; ++b) {
    gguf.tokens.push_back(fmt::format("<0x{:02X}>", b));
    gguf.token_types.push_back(6);
  }
  gguf.scores.assign(gguf.tokens.size(), 0);
  const std::string space = kSpace;
  const std::vector<std::pair<std::string, float>> pieces = {
      {space + "a", -1}, {"ab", -2}, {"bc", -2}, {space + "abc", -3},
      {space, -10},      {"a", -11}, {"b", -12}, {"c", -13}};
  for (const auto& [piece, score] : pieces) {
    gguf.tokens.push_back(piece);
    gguf.scores.push_back(score);
    gguf.token_types.push_back(1);
  }
  gguf.unk = 0;
  gguf.bos = 1;
  gguf.eos = 2;
  return gguf;
}

std::unique_ptr<Tokenizer> FromGguf(GgufTokenizer gguf) {
  Result<TokenizerSpec> spec = GgufTokenizerSpec(std::move(gguf));
  EXPECT_TRUE(spec.ok()) << spec.status().ToString();
  return spec.ok() ? Make(*spec) : nullptr;
}

TEST(SentencePiece, MergesByScore) {
  const auto tokenizer = FromGguf(Gguf());
  const std::string space = kSpace;
  const auto id = [&](const std::string& piece) { return tokenizer->Find(piece); };
  EXPECT_EQ(tokenizer->Encode("abc", false, false), Ids{id(space + "abc")});
  EXPECT_EQ(tokenizer->Encode("b abc", false, false), (Ids{id(space), id("b"), id(space + "abc")}));
  // Equal scores: the left pair first.
  EXPECT_EQ(tokenizer->Encode("babc", false, false), (Ids{id(space), id("b"), id("ab"), id("c")}));
  EXPECT_EQ(tokenizer->Encode("abc", true, false), (Ids{1, id(space + "abc")}));
  EXPECT_EQ(tokenizer->Encode("", true, false), Ids{1});
}

TEST(SentencePiece, UnknownCharactersBecomeBytes) {
  const auto tokenizer = FromGguf(Gguf());
  EXPECT_EQ(tokenizer->Encode("\xc3\xa9", false, false),
            (Ids{tokenizer->Find(kSpace), 3 + 0xc3, 3 + 0xa9}));
  const std::string text = "a \xf0\x9f\x98\x80\n  b c";
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, true, false)), text);
  StreamDecoder stream(tokenizer.get());
  EXPECT_EQ(stream.Push(1), "");
  EXPECT_EQ(stream.Push(tokenizer->Find(std::string(kSpace) + "a")), "a");
  EXPECT_EQ(stream.Push(tokenizer->Find(std::string(kSpace) + "a")), " a");
}

TEST(SentencePiece, ControlTokens) {
  const auto tokenizer = FromGguf(Gguf());
  EXPECT_EQ(tokenizer->Encode("</s>", false, true), Ids{2});
  const Ids forged = tokenizer->Encode("</s><0x41><unk>", false, false);
  for (const int32_t special : {0, 1, 2, 3 + 0x41}) {
    EXPECT_EQ(std::count(forged.begin(), forged.end(), special), 0) << special;
  }
  EXPECT_EQ(tokenizer->Decode(forged), "</s><0x41><unk>");
}

TEST(SentencePiece, TextCutAtSpacesOrNotGivesTheSameIds) {
  // With "c_" in the vocabulary merges reach over spaces, so the text cannot be cut.
  GgufTokenizer gguf = Gguf();
  gguf.tokens.push_back(std::string("c") + kSpace);
  gguf.scores.push_back(-0.5f);
  gguf.token_types.push_back(1);
  const auto tokenizer = FromGguf(gguf);
  const int32_t joint = tokenizer->Find(std::string("c") + kSpace);
  EXPECT_EQ(tokenizer->Encode("c c c", false, false),
            (Ids{tokenizer->Find(kSpace), joint, joint, tokenizer->Find("c")}));
}

TEST(Gguf, MetadataThatDoesNotFitIsAnError) {
  const auto error = [](auto change) {
    GgufTokenizer gguf = Gguf();
    change(gguf);
    Result<TokenizerSpec> spec = GgufTokenizerSpec(gguf);
    if (!spec.ok()) return spec.status().message();
    Result<std::unique_ptr<Tokenizer>> made = Tokenizer::Create(*spec);
    return made.ok() ? std::string() : made.status().message();
  };
  using G = GgufTokenizer&;
  EXPECT_EQ(error([](G) {}), "");
  EXPECT_NE(error([](G g) { g.model = "bert"; }).find("bert"), std::string::npos);
  EXPECT_NE(error([](G g) { g.scores.pop_back(); }).find("scores"), std::string::npos);
  EXPECT_NE(error([](G g) { g.token_types.pop_back(); }).find("token_type"), std::string::npos);
  EXPECT_NE(error([](G g) { g.bos = 1 << 20; }).find("bos_token_id"), std::string::npos);
  EXPECT_NE(error([](G g) { g.scores.clear(); }).find("merges"), std::string::npos);
  EXPECT_NE(error([](G g) { g.scores[261] = NAN; }).find("scores[261]"), std::string::npos);
  EXPECT_NE(error([](G g) { g.merges = {"ab"}; }).find("merges[0]"), std::string::npos);
  EXPECT_NE(error([](G g) {
              g.model = "gpt2";
              g.pre = "no-such";
              g.merges = {"a b"};
            }).find("no-such"),
            std::string::npos);
}

TEST(Gguf, UserDefinedTokensAreRecognisedAlways) {
  GgufTokenizer gguf = Gguf();
  gguf.tokens.push_back(std::string(kSpace) + kSpace);
  gguf.scores.push_back(0);
  gguf.token_types.push_back(4);
  const auto tokenizer = FromGguf(gguf);
  const int32_t id = tokenizer->Find("  ");
  ASSERT_GE(id, 0);
  const Ids ids = tokenizer->Encode("a  b", false, false);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), id), 1);
  EXPECT_FALSE(tokenizer->is_special(id));
}

}  // namespace
}  // namespace lserve
