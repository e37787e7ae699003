// config.json: what real files say, and fields that are missing, mistyped or absurd.
#include "model/config_hf.h"

#include <gtest/gtest.h>

#include "model/hf_json.h"

namespace lserve {
namespace {

using nlohmann::json;

json Base(const std::string& type = "llama") {
  return {{"model_type", type},       {"hidden_size", 256},
          {"intermediate_size", 512}, {"num_hidden_layers", 4},
          {"num_attention_heads", 8}, {"num_key_value_heads", 2},
          {"vocab_size", 1000},       {"max_position_embeddings", 8192},
          {"rms_norm_eps", 1e-5},     {"rope_theta", 500000.0},
          {"eos_token_id", {1, 2}},   {"hidden_act", "silu"}};
}

Result<ModelConfig> Read(const json& object) { return ConfigFromJson(object, "config.json"); }

Result<ModelConfig> With(const std::string& field, json value, const std::string& type = "llama") {
  json object = Base(type);
  object[field] = std::move(value);
  return Read(object);
}

void ExpectError(const Result<ModelConfig>& read, Code code, const std::string& part) {
  EXPECT_EQ(read.status().code(), code) << read.status().ToString();
  EXPECT_NE(read.status().message().find(part), std::string::npos) << read.status().ToString();
  EXPECT_EQ(read.status().message().find("config.json"), 0u) << read.status().ToString();
}

TEST(ConfigHf, ReadsALlama) {
  Result<ModelConfig> c = Read(Base());
  ASSERT_TRUE(c.ok()) << c.status().ToString();
  EXPECT_EQ(c->arch, Architecture::kLlama);
  EXPECT_EQ(c->head_dim, 32);
  EXPECT_EQ(c->rope.theta, 500000);
  EXPECT_EQ(c->eos, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(c->sliding_window, 0);
  EXPECT_EQ(With("head_dim", 128)->head_dim, 128);  // pruned shapes
}

TEST(ConfigHf, Windows) {
  EXPECT_EQ(Read(Base("mistral"))->sliding_window, 4096);  // the default of transformers
  EXPECT_EQ(With("sliding_window", nullptr, "mistral")->sliding_window, 0);
  EXPECT_EQ(With("sliding_window", 1024, "mistral")->sliding_window, 1024);
  json qwen = Base("qwen2");
  qwen["sliding_window"] = 1024;
  EXPECT_EQ(Read(qwen)->sliding_window, 0);  // use_sliding_window is off unless said
  qwen["use_sliding_window"] = true;
  qwen["max_window_layers"] = 4;
  EXPECT_EQ(Read(qwen)->sliding_window, 0);
  qwen["max_window_layers"] = 0;
  EXPECT_EQ(Read(qwen)->sliding_window, 1024);
  qwen["max_window_layers"] = 2;
  ExpectError(Read(qwen), Code::kUnsupported, "max_window_layers");
}

TEST(ConfigHf, RopeKinds) {
  EXPECT_EQ(With("rope_scaling", {{"type", "linear"}, {"factor", 2.0}})->max_position, 16384);
  EXPECT_EQ(With("rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}})->max_position, 32768);
  const json yarn = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 8192}};
  EXPECT_EQ(With("rope_scaling", yarn)->max_position, 32768);
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 1024}};
  Result<ModelConfig> c = With("rope_scaling", llama3);
  ASSERT_TRUE(c.ok()) << c.status().ToString();
  EXPECT_EQ(c->rope.kind, RopeConfig::Kind::kLlama3);
  EXPECT_EQ(c->max_position, 8192);
  EXPECT_EQ(c->rope.original_max_position, 1024);
  EXPECT_EQ(With("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}})->rope.theta,
            1e6);
  ExpectError(With("rope_scaling", {{"type", "longrope"}, {"factor", 4.0}}), Code::kUnsupported,
              "longrope");
  ExpectError(With("rope_scaling", {{"type", "linear"}}), Code::kInvalidArgument, "factor");
  ExpectError(With("rope_scaling", {{"type", "linear"}, {"factor", 0}}), Code::kInvalidArgument,
              "factor");
  ExpectError(With("rope_scaling", 7), Code::kInvalidArgument, "rope_scaling");
}

TEST(ConfigHf, AbsurdFieldsAreNamed) {
  for (const char* field :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings"}) {
    for (const json& bad :
         {json(0), json(-1), json(UINT64_MAX), json(1e300), json("8"), json(1.5), json::array()}) {
      ExpectError(With(field, bad), Code::kInvalidArgument, field);
    }
  }
  for (const char* field : {"hidden_size", "vocab_size", "model_type"}) {
    json object = Base();
    object.erase(field);
    ExpectError(Read(object), Code::kInvalidArgument, field);
  }
  ExpectError(With("num_key_value_heads", 3), Code::kInvalidArgument, "evenly");
  ExpectError(With("head_dim", 33), Code::kInvalidArgument, "head dimension");
  ExpectError(With("rms_norm_eps", 0), Code::kInvalidArgument, "rms_norm_eps");
  ExpectError(With("eos_token_id", "x"), Code::kInvalidArgument, "eos_token_id");
  ExpectError(With("eos_token_id", -1), Code::kInvalidArgument, "eos_token_id");
}

TEST(ConfigHf, UnsupportedNamesItself) {
  ExpectError(Read(Base("mamba")), Code::kUnsupported, "mamba");
  ExpectError(With("architectures", {"LlamaForSequenceClassification"}), Code::kUnsupported,
              "SequenceClassification");
  ExpectError(With("hidden_act", "gelu"), Code::kUnsupported, "gelu");
  ExpectError(With("quantization_config", {{"quant_method", "awq"}}), Code::kUnsupported,
              "quantization_config");
  ExpectError(With("partial_rotary_factor", 0.5), Code::kUnsupported, "partial_rotary_factor");
}

TEST(HfJson, Limits) {
  EXPECT_FALSE(ParseJsonObject(R"({"a":1,"a":2})", "f").ok());
  EXPECT_TRUE(ParseJsonObject(R"({"a":{"a":2},"b":{"a":1}})", "f").ok());
  EXPECT_FALSE(ParseJsonObject("[]", "f").ok());
  EXPECT_FALSE(ParseJsonObject("", "f").ok());
  EXPECT_FALSE(ParseJsonObject(R"({"a":[[[]]]})", "f", 3).ok());
  EXPECT_TRUE(ParseJsonObject(R"({"a":[[]]})", "f", 3).ok());
}

}  // namespace
}  // namespace lserve
