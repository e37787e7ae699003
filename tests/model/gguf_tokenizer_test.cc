// tokenizer.ggml.* of a GGUF: fields that are missing, mistyped or point outside the vocabulary.
#include <gtest/gtest.h>

#include <map>

#include "model/gguf_tokenizer_spec.h"
#include "tests/model/gguf_bytes.h"

namespace lserve {
namespace {

// A value with its type, as bytes.
std::string Scalar(GgufType type, const std::string& value) {
  return GgufBytes().Number(static_cast<uint32_t>(type)).bytes() + value;
}
std::string Id(uint32_t id) { return Scalar(GgufType::kUint32, GgufBytes().Number(id).bytes()); }
std::string Word(const std::string& text) {
  return Scalar(GgufType::kString, GgufBytes().Text(text).bytes());
}
std::string List(GgufType element, uint64_t count, const std::string& values) {
  return Scalar(GgufType::kArray,
                GgufBytes().Number(static_cast<uint32_t>(element)).Number(count).bytes() + values);
}
std::string Words(const std::vector<std::string>& texts) {
  GgufBytes bytes;
  for (const std::string& text : texts) bytes.Text(text);
  return List(GgufType::kString, texts.size(), bytes.bytes());
}
template <typename T>
std::string Numbers(GgufType element, const std::vector<T>& values) {
  GgufBytes bytes;
  for (const T value : values) bytes.Number(value);
  return List(element, values.size(), bytes.bytes());
}

using Keys = std::map<std::string, std::string>;

Keys Good() {
  return {{"model", Word("gpt2")},
          {"pre", Word("qwen2")},
          {"tokens", Words({"a", "b", "ab", "<end>"})},
          {"merges", Words({"a b"})},
          {"token_type", Numbers<int32_t>(GgufType::kInt32, {1, 1, 1, 3})},
          {"eos_token_id", Id(3)},
          {"add_bos_token", Scalar(GgufType::kBool, std::string(1, '\0'))}};
}

Result<TokenizerSpec> Read(const Keys& keys) {
  std::string bytes = GgufBytes().Header(0, keys.size()).bytes();
  for (const auto& [key, value] : keys)
    bytes += GgufBytes().Text("tokenizer.ggml." + key).bytes() + value;
  Result<GgufFile> file = ParseGguf(std::as_bytes(std::span(bytes)), "test.gguf");
  if (!file.ok()) return file.status();
  return TokenizerFromGguf(*file, "test.gguf");
}

TEST(GgufTokenizerFields, ReadsWhatIsThere) {
  Result<TokenizerSpec> spec = Read(Good());
  ASSERT_TRUE(spec.ok()) << spec.status().ToString();
  EXPECT_EQ(spec->vocab.size(), 4u);
  EXPECT_EQ(spec->eos, 3);
  ASSERT_EQ(spec->added.size(), 1u);
  EXPECT_EQ(spec->added[0].text, "<end>");
}

TEST(GgufTokenizerFields, WrongOnesAreNamed) {
  const std::pair<const char*, std::string> cases[] = {
      {"model", Id(7)},
      {"model", Word("bert")},
      {"pre", Words({"qwen2"})},
      {"pre", Word("no-such")},
      {"tokens", Word("a")},
      {"tokens", Words({})},
      {"tokens", Numbers<uint32_t>(GgufType::kUint32, {1, 2, 3, 4})},
      {"merges", Id(1)},
      {"merges", Words({"ab"})},
      {"merges", Words({""})},
      {"token_type", Id(1)},
      {"token_type", Numbers<int32_t>(GgufType::kInt32, {1, 1, 1})},
      {"token_type", Numbers<float>(GgufType::kFloat32, {1, 1, 1, 3})},
      {"scores", Numbers<float>(GgufType::kFloat32, {0, 0, 0, 0, 0})},
      {"scores", Words({"0", "0", "0", "0"})},
      {"bos_token_id", Id(4)},
      {"eos_token_id", Id(UINT32_MAX)},
      {"eos_token_id", Word("3")},
      {"unknown_token_id", Numbers<uint32_t>(GgufType::kUint32, {1})},
      {"add_bos_token", Id(1)},
      {"add_eos_token", Word("true")},
      {"add_space_prefix", Id(0)},
  };
  for (const auto& [key, value] : cases) {
    Keys keys = Good();
    keys[key] = value;
    const Status status = Read(keys).status();
    EXPECT_FALSE(status.ok()) << key;
    EXPECT_EQ(status.message().find("test.gguf"), 0u) << status.ToString();
    EXPECT_NE(status.message().find("tokenizer.ggml." + std::string(key)), std::string::npos)
        << status.ToString();
  }
  for (const char* key : {"model", "tokens", "merges"}) {
    Keys keys = Good();
    keys.erase(key);
    EXPECT_NE(Read(keys).status().message().find("tokenizer.ggml." + std::string(key)),
              std::string::npos)
        << key;
  }
}

}  // namespace
}  // namespace lserve
