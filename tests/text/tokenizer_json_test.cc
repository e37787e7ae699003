// tokenizer.json and tokenizer_config.json: what is understood, and clear errors for what is not.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/mapped_file.h"
#include "tests/text/tokenizer_specs.h"

namespace lserve {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

Json Minimal() {
  Json vocab;
  for (int b = 0; b < 256; ++b) {
    vocab[text::ToByteAlphabet(std::string(1, static_cast<char>(b)))] = b;
  }
  vocab["ab"] = 256;
  return {{"added_tokens", Json::array({{{"id", 257}, {"content", "<s>"}, {"special", true}},
                                        {{"id", 258}, {"content", "</s>"}, {"special", true}}})},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"post_processor", nullptr},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array({"a b"})}}}};
}

std::string Error(const Json& json, const std::string& config = "") {
  Result<TokenizerSpec> spec = ParseTokenizerJson(json.dump(), config, "dir/tokenizer.json");
  return spec.ok() ? "" : spec.status().message();
}

TokenizerSpec Parse(const Json& json, const std::string& config = "") {
  Result<TokenizerSpec> spec = ParseTokenizerJson(json.dump(), config, "dir/tokenizer.json");
  EXPECT_TRUE(spec.ok()) << spec.status().ToString();
  return spec.ok() ? *spec : TokenizerSpec();
}

TEST(TokenizerJson, ReadsMergesAsStringsAndAsPairs) {
  Json json = Minimal();
  EXPECT_EQ(Make(Parse(json))->Encode("ab<s>", false, true), (Ids{256, 257}));
  json["model"]["merges"] = Json::array({Json::array({"a", "b"})});
  EXPECT_EQ(Make(Parse(json))->Encode("ab", false, true), Ids{256});
}

TEST(TokenizerJson, SpecialTokensAroundAText) {
  Json json = Minimal();
  json["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [257]}}})");
  TokenizerSpec spec = Parse(json);
  EXPECT_EQ(spec.prefix, Ids{257});
  EXPECT_EQ(spec.bos, 257);
  spec = Parse(json,
               R"({"add_bos_token": false, "bos_token": "<s>", "eos_token": {"content": "</s>"}})");
  EXPECT_EQ(spec.prefix, Ids{});
  EXPECT_EQ(spec.bos, 257);
  EXPECT_EQ(spec.eos, 258);
  json["post_processor"] = nullptr;
  spec = Parse(
      json,
      R"({"add_bos_token": true, "add_eos_token": true, "bos_token": "<s>", "eos_token": "</s>"})");
  EXPECT_EQ(spec.prefix, Ids{257});
  EXPECT_EQ(spec.suffix, Ids{258});
}

TEST(TokenizerJson, ConfigAddsTokens) {
  const TokenizerSpec spec = Parse(Minimal(), R"({"added_tokens_decoder": {
    "258": {"content": "</s>", "special": false}, "259": {"content": "<x>", "special": true}}})");
  ASSERT_EQ(spec.added.size(), 3u);
  EXPECT_FALSE(spec.added[1].special);
  EXPECT_EQ(Make(spec)->Encode("<x>", false, true), Ids{259});
}

TEST(TokenizerJson, WhatIsNotUnderstoodIsAnErrorThatNamesTheField) {
  struct Case {
    const char* pointer;
    const char* value;
    const char* message;
  };
  const Case cases[] = {
      {"/model/type", R"("Unigram")", "model.type: \"Unigram\""},
      {"/model", "7", "model"},
      {"/model/vocab", "[]", "model.vocab"},
      {"/model/vocab/a", "-1", "model.vocab"},
      {"/model/vocab/a", "98", "same id"},
      {"/model/vocab/a", "1e30", "model.vocab"},
      {"/model/vocab/a", "1000000000", "model.vocab"},
      {"/model/merges", "{}", "model.merges"},
      {"/model/merges/0", R"("a b c")", "model.merges[0]"},
      {"/model/merges/0", R"(["a"])", "model.merges[0]"},
      {"/model/dropout", "0.1", "model.dropout"},
      {"/model/continuing_subword_prefix", R"("##")", "model.continuing_subword_prefix"},
      {"/model/unk_token", R"("?!")", "model.unk_token"},
      {"/model/fuse_unk", "1", "model.fuse_unk"},
      {"/added_tokens", "{}", "added_tokens"},
      {"/added_tokens/0/id", R"("x")", "added_tokens[0].id"},
      {"/added_tokens/0/content", "3", "added_tokens[0].content"},
      {"/added_tokens/1/lstrip", "3", "added_tokens[1].lstrip"},
      {"/normalizer", R"({"type": "Lowercase"})", "normalizer: type \"Lowercase\""},
      {"/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]})",
       "normalizer.normalizers[1]"},
      {"/normalizer", "[]", "normalizer: not an object"},
      {"/pre_tokenizer", R"({"type": "Whitespace"})", "pre_tokenizer: type"},
      {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"},
        {"type": "Digits"}]})",
       "after ByteLevel"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Odd"})",
       "pre_tokenizer.behavior"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": "a", "behavior": "Isolated"})",
       "pre_tokenizer.pattern"},
      {"/decoder", R"({"type": "WordPiece"})", "decoder"},
      {"/post_processor", R"({"type": "BertProcessing"})", "post_processor"},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]})",
       "post_processor"},
  };
  for (const Case& c : cases) {
    Json json = Minimal();
    json[Json::json_pointer(c.pointer)] = Json::parse(c.value);
    const std::string error = Error(json);
    EXPECT_NE(error.find(c.message), std::string::npos) << c.pointer << ": " << error;
    EXPECT_EQ(error.rfind("dir/tokenizer.json: ", 0), 0u) << error;
  }
}

TEST(TokenizerJson, BrokenFilesAndConfigs) {
  for (const char* text : {"", "[]", "{", "null", "{\"model\": \xff}", "\"x\"", "{}"}) {
    EXPECT_FALSE(ParseTokenizerJson(text, "", "f").ok()) << text;
  }
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += R"({"type":"Sequence","normalizers":[)";
  EXPECT_FALSE(ParseTokenizerJson(deep, "", "f").ok());
  for (const char* config :
       {"[]", R"({"bos_token": 7})", R"({"bos_token": "<none>"})", R"({"add_bos_token": "yes"})",
        R"({"added_tokens_decoder": []})", R"({"added_tokens_decoder": {"x": {"content": "y"}}})",
        R"({"added_tokens_decoder": {"99999999999": {"content": "y"}}})",
        R"({"added_tokens_decoder": {"257": {"content": "other"}}})"}) {
    const std::string error = Error(Minimal(), config);
    EXPECT_NE(error.find("tokenizer_config.json"), std::string::npos) << config << ": " << error;
  }
}

TEST(TokenizerJson, DeepSequencesAreRefused) {
  Json json = Minimal();
  Json step = {{"type", "NFC"}};
  for (int i = 0; i < 50; ++i) step = {{"type", "Sequence"}, {"normalizers", Json::array({step})}};
  json["normalizer"] = step;
  EXPECT_NE(Error(json).find("nested"), std::string::npos);
}

// What `tokenizers` gives, by tools/tokenizer_goldens.py.
TEST(TokenizerJson, SmolLm2HasTheGoldenIds) {
  const std::string root = LSERVE_SOURCE_DIR;
  Result<std::string> file = ReadFile(root + "/data/models/smollm2-135m-longctx/tokenizer.json");
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  Result<TokenizerSpec> spec = ParseTokenizerJson(*file, "", "smollm2");
  ASSERT_TRUE(spec.ok()) << spec.status().ToString();
  const auto tokenizer = Make(*spec);
  Result<std::string> goldens = ReadFile(root + "/tests/text/data/smollm2_goldens.json");
  ASSERT_TRUE(goldens.ok()) << goldens.status().ToString();
  const Json cases = Json::parse(*goldens);
  ASSERT_GT(cases.size(), 200u);
  for (const Json& c : cases) {
    const std::string text = c["text"];
    EXPECT_EQ(tokenizer->Encode(text, false, true), c["ids"].get<Ids>()) << text;
    const Ids ordinary = tokenizer->Encode(text, false, false);
    EXPECT_EQ(std::count_if(ordinary.begin(), ordinary.end(),
                            [&](int32_t id) { return tokenizer->is_special(id); }),
              0)
        << text;
  }
}

}  // namespace
}  // namespace lserve
