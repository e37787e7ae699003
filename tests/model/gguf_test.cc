// GGUF files that are right, and each way in which one attacks the reader.
#include "model/gguf.h"

#include <gtest/gtest.h>

#include <cmath>

#include "model/config_gguf.h"
#include "tests/model/gguf_bytes.h"

namespace lserve {
namespace {

constexpr uint32_t kF32 = 0, kQ8_0 = 8;

void ExpectError(const Status& status, Code code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.ToString();
  EXPECT_EQ(status.message().find("test.gguf"), 0u) << status.ToString();
}
void ExpectError(const GgufBytes& file, Code code, const std::string& part) {
  ExpectError(file.Parse().status(), code, part);
}

GgufBytes OneTensor(const std::vector<uint64_t>& shape, uint32_t type = kF32, uint64_t offset = 0) {
  GgufBytes file;
  return file.Header(1, 0).Tensor("t", shape, type, offset).Data(256);
}

TEST(Gguf, ReadsKeysAndTensors) {
  GgufBytes file;
  file.Header(2, 3)
      .Key("a.number", 7u)
      .Key("a.text", std::string("hello"))
      .Text("a.list")
      .Number<uint32_t>(9)
      .Number<uint32_t>(8)
      .Number<uint64_t>(2)
      .Text("x")
      .Text("")
      .Tensor("m", {32, 2}, kQ8_0, 0)
      .Tensor("v", {3}, kF32, 96)
      .Data(108);
  Result<GgufFile> read = file.Parse();
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(read->Find("a.number")->Integer(), 7);
  EXPECT_EQ(read->Find("a.number")->String(), std::nullopt);
  EXPECT_EQ(read->Find("a.text")->String(), "hello");
  EXPECT_EQ(read->Find("a.list")->Strings(), (std::vector<std::string>{"x", ""}));
  ASSERT_EQ(read->tensors.size(), 2u);
  EXPECT_EQ(read->tensors[0].dtype, DType::kQ8_0);
  EXPECT_EQ(read->tensors[0].rows, 2);
  EXPECT_EQ(read->tensors[0].cols, 32);
  EXPECT_EQ(read->tensors[1].rows, 1);
  EXPECT_EQ(read->tensors[1].cols, 3);
  EXPECT_EQ(read->tensors[1].data - read->tensors[0].data, 96);
}

// This file is about those that attacked others' readers: CVE-2024-21802 and CVE-2026-27940 (counts
// and sizes taken on trust), CVE-2025-53630 (sums that overflow), CVE-2026-53923 and CVE-2026-7482
// (tensors that end outside the file). Named again where each is tried.
TEST(Gguf, EveryCutIsAnError) {
  GgufBytes file;
  file.Header(1, 2).Key("k", 1u).Key("s", std::string("text")).Tensor("t", {8}, kF32, 0).Data(32);
  ASSERT_TRUE(file.Parse().ok());
  for (size_t size = 0; size < file.bytes().size(); ++size) {
    // Its own allocation, so that a sanitizer sees a read past the end.
    const std::vector<char> cut(file.bytes().begin(),
                                file.bytes().begin() + static_cast<long>(size));
    EXPECT_FALSE(ParseGguf(std::as_bytes(std::span(cut)), "test.gguf").ok()) << size;
  }
}

TEST(Gguf, Header) {
  EXPECT_FALSE(ParseGguf({}, "test.gguf").ok());
  std::string bytes = GgufBytes().Header(0, 0).bytes();
  bytes[0] = 'X';
  ExpectError(ParseGguf(std::as_bytes(std::span(bytes.data(), bytes.size())), "test.gguf").status(),
              Code::kInvalidArgument, "magic");
  ExpectError(GgufBytes().Header(0, 0, 1), Code::kUnsupported, "version 1");
  ExpectError(GgufBytes().Header(0, 0, 4), Code::kUnsupported, "version 4");
  ExpectError(GgufBytes().Header(0, 0, 0x03000000), Code::kUnsupported, "big-endian");
  EXPECT_TRUE(GgufBytes().Header(0, 0, 2).Parse().ok());
}

// CVE-2024-21802, CVE-2026-27940.
TEST(Gguf, HugeCountsAllocateNothing) {
  ExpectError(GgufBytes().Header(UINT64_MAX, 0), Code::kInvalidArgument, "limit");
  ExpectError(GgufBytes().Header(0, UINT64_MAX), Code::kInvalidArgument, "limit");
  ExpectError(GgufBytes().Header(60000, 60000), Code::kDataLoss, "cut off");
  for (const uint32_t element : {0u, 4u, 8u, 10u}) {
    GgufBytes file;
    file.Header(0, 1).Text("k").Number<uint32_t>(9).Number(element).Number(UINT64_MAX / 4);
    ExpectError(file, Code::kDataLoss, "'k'");
  }
  GgufBytes name;
  name.Header(0, 1).Number(UINT64_MAX);
  ExpectError(name, Code::kInvalidArgument, "length");
  GgufBytes text;
  text.Header(0, 1).Text("k").Number<uint32_t>(8).Number(UINT64_MAX);
  ExpectError(text, Code::kDataLoss, "'k'");
}

TEST(Gguf, BadKeys) {
  ExpectError(GgufBytes().Header(0, 2).Key("k", 1u).Key("k", 2u), Code::kInvalidArgument, "twice");
  GgufBytes type;
  type.Header(0, 1).Text("k").Number<uint32_t>(13).Number<uint64_t>(0);
  ExpectError(type, Code::kInvalidArgument, "type 13");
  GgufBytes nested;
  nested.Header(0, 1).Text("k").Number<uint32_t>(9).Number<uint32_t>(9).Number<uint64_t>(1);
  ExpectError(nested, Code::kUnsupported, "array of arrays");
  for (const uint32_t alignment : {0u, 4u, 24u, 0x80000000u}) {
    GgufBytes file;
    file.Header(0, 1).Key("general.alignment", alignment);
    ExpectError(file, Code::kInvalidArgument, "general.alignment");
  }
}

// CVE-2025-53630: products and sums that overflow.
TEST(Gguf, BadShapes) {
  ExpectError(OneTensor({0}), Code::kInvalidArgument, "dimension 0");
  ExpectError(OneTensor({8, 0}), Code::kInvalidArgument, "dimension 1");
  ExpectError(OneTensor({UINT64_MAX}), Code::kInvalidArgument, "dimension 0");
  ExpectError(OneTensor({}), Code::kInvalidArgument, "0 dimensions");
  ExpectError(OneTensor({1, 1, 1, 1, 1}), Code::kInvalidArgument, "5 dimensions");
  ExpectError(OneTensor({2, 2, 2}), Code::kUnsupported, "two dimensions");
  ExpectError(OneTensor({33}, kQ8_0), Code::kInvalidArgument, "whole blocks");
  // The product of dimensions that are each allowed passes the file, and 64 bits.
  ExpectError(OneTensor({uint64_t{1} << 31, uint64_t{1} << 31}), Code::kInvalidArgument, "larger");
  ExpectError(OneTensor({uint64_t{1} << 31, uint64_t{1} << 20}), Code::kDataLoss, "cut off");
}

TEST(Gguf, BadTypes) {
  ExpectError(OneTensor({32}, 23), Code::kUnsupported, "IQ4_XS (23)");
  ExpectError(OneTensor({32}, 4), Code::kUnsupported, "unknown (4)");
  ExpectError(OneTensor({32}, UINT32_MAX), Code::kUnsupported, "unknown");
}

// CVE-2026-53923, CVE-2026-7482: tensors outside the file.
TEST(Gguf, BadPlaces) {
  ExpectError(OneTensor({8}, kF32, 8), Code::kInvalidArgument, "aligned");
  ExpectError(OneTensor({8}, kF32, 256), Code::kDataLoss, "outside");
  ExpectError(OneTensor({8}, kF32, UINT64_MAX - 31), Code::kDataLoss, "outside");
  GgufBytes overlap;
  overlap.Header(2, 0).Tensor("a", {16}, kF32, 0).Tensor("b", {8}, kF32, 32).Data(128);
  ExpectError(overlap, Code::kInvalidArgument, "overlap");
  GgufBytes twice;
  twice.Header(2, 0).Tensor("a", {8}, kF32, 0).Tensor("a", {8}, kF32, 32).Data(128);
  ExpectError(twice, Code::kInvalidArgument, "twice");
}

// The metadata of a small Llama; `key` gets `value` instead of its own.
template <typename T>
Result<ModelConfig> Config(const std::string& key, T value, const std::string& arch = "llama") {
  GgufBytes file;
  const std::vector<std::pair<std::string, uint32_t>> numbers = {
      {"block_count", 1},         {"context_length", 64},      {"embedding_length", 64},
      {"feed_forward_length", 8}, {"attention.head_count", 4}, {"attention.head_count_kv", 2}};
  int keys = 8, extra = 1;
  for (const auto& [name, number] : numbers) extra -= key == "llama." + name;
  extra -= key == "llama.attention.layer_norm_rms_epsilon";
  file.Header(1, static_cast<uint64_t>(keys + extra)).Key("general.architecture", arch);
  for (const auto& [name, number] : numbers) {
    if (key != "llama." + name) file.Key("llama." + name, number);
  }
  if (key != "llama.attention.layer_norm_rms_epsilon") {
    file.Key("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  }
  file.Key(key, value).Tensor("token_embd.weight", {64, 4}, kF32, 0).Data(1024);
  Result<GgufFile> read = file.Parse();
  if (!read.ok()) return read.status();
  return ConfigFromGguf(*read, "test.gguf");
}

TEST(GgufConfig, ReadsALlama) {
  Result<ModelConfig> c = Config("llama.rope.freq_base", 5e5f);
  ASSERT_TRUE(c.ok()) << c.status().ToString();
  EXPECT_EQ(c->head_dim, 16);
  EXPECT_EQ(c->group(), 2);
  EXPECT_EQ(c->vocab, 4);
  EXPECT_EQ(c->rope.theta, 5e5);
  EXPECT_TRUE(c->tied_embeddings);
  EXPECT_FALSE(c->qkv_bias);
}

TEST(GgufConfig, AbsurdFieldsAreNamed) {
  for (const char* key : {"llama.block_count", "llama.context_length", "llama.embedding_length",
                          "llama.feed_forward_length", "llama.attention.head_count",
                          "llama.attention.head_count_kv"}) {
    ExpectError(Config(key, 0u).status(), Code::kInvalidArgument, key);
    ExpectError(Config(key, UINT32_MAX).status(), Code::kInvalidArgument, key);
    ExpectError(Config(key, std::string("7")).status(), Code::kInvalidArgument, key);
  }
  ExpectError(Config("llama.attention.layer_norm_rms_epsilon", NAN).status(),
              Code::kInvalidArgument, "layer_norm_rms_epsilon");
  ExpectError(Config("llama.rope.freq_base", -1.0f).status(), Code::kInvalidArgument, "freq_base");
  ExpectError(Config("llama.attention.head_count_kv", 3u).status(), Code::kInvalidArgument,
              "evenly");
  ExpectError(Config("llama.rope.dimension_count", 8u).status(), Code::kUnsupported,
              "dimension_count");
  ExpectError(Config("llama.expert_count", 8u).status(), Code::kUnsupported, "expert_count");
  ExpectError(Config("llama.rope.scaling.type", std::string("longrope")).status(),
              Code::kUnsupported, "longrope");
  ExpectError(Config("general.name", std::string("x"), "mamba").status(), Code::kUnsupported,
              "mamba");
}

// Llama 3's GGUFs carry a factor for each frequency, by which angles are divided.
Result<ModelConfig> WithFactors(const std::vector<float>& factors, uint32_t type = kF32) {
  GgufBytes file;
  file.Header(2, 8).Key("general.architecture", std::string("llama"));
  for (const char* key : {"block_count", "context_length", "feed_forward_length"})
    file.Key("llama." + std::string(key), 64u);
  file.Key("llama.embedding_length", 64u)
      .Key("llama.attention.head_count", 4u)
      .Key("llama.attention.head_count_kv", 2u)
      .Key("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .Tensor("token_embd.weight", {64, 4}, kF32, 0)
      .Tensor("rope_freqs.weight", {factors.size()}, type, 1024)
      .Data(1024);
  for (const float factor : factors) file.Number(factor);
  Result<GgufFile> read = file.Parse();
  if (!read.ok()) return read.status();
  return ConfigFromGguf(*read, "test.gguf");
}

TEST(GgufConfig, FrequencyFactorsAreChecked) {
  const std::vector<float> good(8, 2.0f);  // half of a head
  Result<ModelConfig> c = WithFactors(good);
  ASSERT_TRUE(c.ok()) << c.status().ToString();
  EXPECT_EQ(c->rope.frequency_factors, good);
  constexpr uint32_t kF16 = 1;
  ExpectError(WithFactors(good, kF16).status(), Code::kInvalidArgument, "rope_freqs.weight");
  for (const size_t count : {size_t{1}, size_t{7}, size_t{9}, size_t{16}})
    ExpectError(WithFactors(std::vector<float>(count, 1.0f)).status(), Code::kInvalidArgument,
                "must hold 8");
  for (const float bad : {0.0f, -1.0f, 1e-30f, 1e30f, INFINITY, NAN}) {
    std::vector<float> factors = good;
    factors[5] = bad;
    ExpectError(WithFactors(factors).status(), Code::kInvalidArgument, "rope_freqs.weight");
  }
}

}  // namespace
}  // namespace lserve
