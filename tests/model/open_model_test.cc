// Whole model directories: weights in several files, indexes that lie, tensors that do not fit the
// configuration, block formats whose rows are no whole blocks.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/safetensors.h"
#include "model/weights.h"
#include "tests/model/gguf_bytes.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kTiny = fs::path(LSERVE_SOURCE_DIR) / "tests/golden/tiny";

class OpenModelTest : public testing::Test {
 protected:
  struct Tensor {
    json shape;
    std::string dtype, bytes;
  };

  void SetUp() override {
    directory_ = fs::path(testing::TempDir()) / ("lserve-open-" + std::to_string(getpid()));
    fs::create_directories(directory_);
    std::ifstream config(kTiny / "llama-default.json");
    config_ = json::parse(config);
    json vocab = json::object();
    for (int i = 0; i < 128; ++i) vocab["t" + std::to_string(i)] = i;
    Write("tokenizer.json",
          json{{"added_tokens", json::array()},
               {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
               {"decoder", {{"type", "ByteLevel"}}},
               {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}}
              .dump());
    ReadTensors();
  }
  void TearDown() override { fs::remove_all(directory_); }

  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(directory_ / name, std::ios::binary) << bytes;
  }

  // Writes the named tensors as one safetensors file.
  void WriteShard(const std::string& name, const std::vector<std::string>& tensors) {
    json header = json::object();
    std::string data;
    for (const std::string& t : tensors) {
      const Tensor& tensor = tensors_.at(t);
      header[t] = {{"dtype", tensor.dtype},
                   {"shape", tensor.shape},
                   {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
      data += tensor.bytes;
    }
    const std::string text = header.dump();
    const uint64_t size = text.size();
    Write(name, std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + text + data);
  }
  void WriteIndex(const json& weight_map) {
    Write("model.safetensors.index.json", json{{"weight_map", weight_map}}.dump());
  }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }
  // Every other tensor, so that layers are cut apart.
  std::vector<std::string> Half(size_t which) const {
    std::vector<std::string> half;
    const std::vector<std::string> names = Names();
    for (size_t i = which; i < names.size(); i += 2) half.push_back(names[i]);
    return half;
  }
  // Two shards and their index.
  json WriteShards() {
    json map = json::object();
    for (size_t i = 0; i < 2; ++i) {
      const std::string shard = "model-0000" + std::to_string(i + 1) + "-of-00002.safetensors";
      WriteShard(shard, Half(i));
      for (const std::string& name : Half(i)) map[name] = shard;
    }
    WriteIndex(map);
    return map;
  }

  json ReadTokenizer() const {
    std::ifstream file(directory_ / "tokenizer.json");
    return json::parse(file);
  }

  Result<ModelFiles> Open() {
    Write("config.json", config_.dump());
    return OpenModel(directory_.string());
  }
  void ExpectError(const std::string& part) {
    const Result<ModelFiles> files = Open();
    ASSERT_FALSE(files.ok()) << part;
    EXPECT_NE(files.status().message().find(part), std::string::npos) << files.status().ToString();
    EXPECT_NE(files.status().message().find(directory_.string()), std::string::npos)
        << "names no file: " << files.status().ToString();
  }

  fs::path directory_;
  json config_;
  std::map<std::string, Tensor> tensors_;

 private:
  void ReadTensors() {
    std::ifstream in(kTiny / "llama.safetensors", std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    uint64_t size = 0;
    std::memcpy(&size, bytes.data(), sizeof(size));
    const json header = json::parse(bytes.substr(8, size));
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      const size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
      tensors_[name] = {entry["shape"], entry["dtype"],
                        bytes.substr(8 + size + begin, end - begin)};
    }
  }
};

TEST_F(OpenModelTest, ShardsAreTheModel) {
  WriteShard("model.safetensors", Names());
  const Result<ModelFiles> whole = Open();
  ASSERT_TRUE(whole.ok()) << whole.status().ToString();
  std::map<std::string, std::string> expected;
  for (const auto& [name, t] : whole->tensors)
    expected[name].assign(reinterpret_cast<const char*>(t.data),
                          static_cast<size_t>(t.rows * RowBytes(t.dtype, t.cols)));
  EXPECT_GT(expected.size(), 20u);

  fs::remove(directory_ / "model.safetensors");
  for (const bool index : {true, false}) {
    WriteShards();
    if (!index) fs::remove(directory_ / "model.safetensors.index.json");
    const Result<ModelFiles> files = Open();
    ASSERT_TRUE(files.ok()) << files.status().ToString();
    EXPECT_EQ(files->files.size(), 2u);
    ASSERT_EQ(files->tensors.size(), expected.size());
    for (const auto& [name, t] : files->tensors)
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(t.data),
                            static_cast<size_t>(t.rows * RowBytes(t.dtype, t.cols))),
                expected[name])
          << name;
  }
}

TEST_F(OpenModelTest, HostileIndexes) {
  const json good = WriteShards();
  ASSERT_TRUE(Open().ok());
  const std::string tensor = "model.norm.weight";
  for (const json& shard :
       {json("../model-00001-of-00002.safetensors"), json("/etc/passwd"), json(""), json(5),
        json(nullptr), json("config.json"), json("a/b.safetensors")}) {
    json map = good;
    map[tensor] = shard;
    WriteIndex(map);
    ExpectError("'" + tensor + "'");
  }
  json map = good;
  map[tensor] = "absent.safetensors";
  WriteIndex(map);
  ExpectError("absent.safetensors");
  map = good;
  map["model.layers.0.extra.weight"] = good.begin().value();
  WriteIndex(map);
  ExpectError("'model.layers.0.extra.weight' is not in");
  WriteIndex(json::array());
  ExpectError("weight_map must be an object");
  WriteIndex(json::object());
  ExpectError("no .safetensors file");
  Write("model.safetensors.index.json", "{\"weight_map\": {");
  ExpectError("index.json");
  Write("model.safetensors.index.json", std::string(4000, '['));
  ExpectError("index.json");
}

TEST_F(OpenModelTest, ATensorInTwoShards) {
  const json map = WriteShards();
  std::vector<std::string> more = Half(1);
  more.push_back(Half(0).front());
  WriteShard("model-00002-of-00002.safetensors", more);
  ExpectError("'" + Half(0).front() + "' is in another file too");
}

TEST_F(OpenModelTest, AShardThatIsMissingOrCut) {
  WriteShards();
  const fs::path second = directory_ / "model-00002-of-00002.safetensors";
  fs::resize_file(second, fs::file_size(second) - 1);
  ExpectError("model-00002-of-00002.safetensors");
  fs::remove(second);
  ExpectError("model-00002-of-00002.safetensors");
}

TEST_F(OpenModelTest, MissingAndUnknownTensors) {
  std::vector<std::string> names = Names();
  const std::string gone = names.back();
  names.pop_back();
  WriteShard("model.safetensors", names);
  ExpectError("is missing");
  tensors_["model.layers.0.self_attn.rotary.weight"] = tensors_.at(gone);
  WriteShard("model.safetensors", Names());
  ExpectError("'model.layers.0.self_attn.rotary.weight' has no place");
}

TEST_F(OpenModelTest, EveryTensorOfAnotherShape) {
  for (const std::string& name : Names()) {
    const json shape = tensors_.at(name).shape;
    const std::string bytes = tensors_.at(name).bytes;
    // One row or element less, and a matrix on its side.
    json less = shape;
    const size_t row = bytes.size() / shape[0].get<size_t>();
    less[0] = shape[0].get<int>() - 1;
    tensors_.at(name).shape = less;
    tensors_.at(name).bytes = bytes.substr(row);
    WriteShard("model.safetensors", Names());
    ExpectError("the configuration asks for");
    tensors_.at(name).bytes = bytes;
    if (shape.size() == 2 && shape[0] != shape[1]) {
      tensors_.at(name).shape = {shape[1], shape[0]};
      WriteShard("model.safetensors", Names());
      ExpectError("the configuration asks for");
    }
    tensors_.at(name).shape = {1, 1, bytes.size() / 2};
    WriteShard("model.safetensors", Names());
    EXPECT_FALSE(Open().ok()) << name;
    tensors_.at(name).shape = shape;
  }
  WriteShard("model.safetensors", Names());
  EXPECT_TRUE(Open().ok());
}

TEST_F(OpenModelTest, ConfigurationsThatTheTensorsDoNotFit) {
  WriteShard("model.safetensors", Names());
  ASSERT_TRUE(Open().ok());
  const json good = config_;
  for (const char* field : {"hidden_size", "intermediate_size", "num_attention_heads", "vocab_size",
                            "head_dim", "num_hidden_layers"}) {
    for (const json& value : {json(good.at(field).get<int64_t>() * 2), json(0), json(-1),
                              json(int64_t{1} << 40), json("64"), json(2.5)}) {
      config_ = good;
      config_[field] = value;
      EXPECT_FALSE(Open().ok()) << field << " " << value;
    }
  }
}

// A token without a row in the matrix of embeddings would be read from outside of it.
TEST_F(OpenModelTest, TokensThatTheModelDoesNotHave) {
  WriteShard("model.safetensors", Names());
  ASSERT_TRUE(Open().ok());
  const json good = ReadTokenizer();
  json more = good;
  more["model"]["vocab"]["one-too-many"] = 128;
  Write("tokenizer.json", more.dump());
  ExpectError("the tokenizer has 129 tokens, the model 128");
  more = good;
  more["added_tokens"] = json::array({{{"id", 4000}, {"content", "<x>"}, {"special", true}}});
  Write("tokenizer.json", more.dump());
  ExpectError("the tokenizer has 4001 tokens");
  Write("tokenizer.json", good.dump());
  config_["eos_token_id"] = 128;
  ExpectError("end token 128");
  config_["eos_token_id"] = 2;
  config_["bos_token_id"] = 128;
  ExpectError("start token 128");
}

TEST_F(OpenModelTest, FilesBesideTheModelThatAreBroken) {
  WriteShard("model.safetensors", Names());
  ASSERT_TRUE(Open().ok());
  const struct {
    const char *file, *text, *message;
  } cases[] = {
      {"generation_config.json", "{", "generation_config.json"},
      {"generation_config.json", "[]", "generation_config.json"},
      {"generation_config.json", R"({"eos_token_id": "2"})", "eos_token_id"},
      {"generation_config.json", R"({"eos_token_id": [2, 1e300]})", "eos_token_id"},
      {"generation_config.json", R"({"eos_token_id": [-2]})", "eos_token_id"},
      {"generation_config.json", R"({"eos_token_id": 128})", "end token 128"},
      {"tokenizer_config.json", "{", "tokenizer_config.json"},
      {"tokenizer_config.json", R"({"chat_template": 7})", "chat_template"},
      {"tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})", "chat_template"},
      {"tokenizer_config.json", R"({"chat_template": [7]})", "chat_template"},
      {"tokenizer_config.json", R"({"add_bos_token": 3})", "add_bos_token"},
  };
  for (const auto& c : cases) {
    Write(c.file, c.text);
    ExpectError(c.message);
    fs::remove(directory_ / c.file);
  }
  fs::remove(directory_ / "tokenizer.json");
  ExpectError("tokenizer.json");
}

// Every block format, by the number GGUF has for it and the elements of its blocks.
TEST(GgufBlocks, RowsAreWholeBlocks) {
  const std::pair<uint32_t, uint64_t> formats[] = {{2, 32}, {3, 32},   {6, 32},   {7, 32},
                                                   {8, 32}, {12, 256}, {13, 256}, {14, 256}};
  for (const auto& [type, elements] : formats) {
    for (const uint64_t cols : {uint64_t{1}, elements - 1, elements + 1, elements * 3 / 2}) {
      const Result<GgufFile> read = GgufBytes()
                                        .Header(1, 0)
                                        .Tensor("blk.0.attn_q.weight", {cols, 4}, type, 0)
                                        .Data(1 << 16)
                                        .Parse();
      ASSERT_FALSE(read.ok()) << type << " " << cols;
      EXPECT_NE(read.status().message().find("not whole blocks of " + std::to_string(elements)),
                std::string::npos)
          << read.status().ToString();
    }
    EXPECT_TRUE(GgufBytes()
                    .Header(1, 0)
                    .Tensor("blk.0.attn_q.weight", {elements, 4}, type, 0)
                    .Data(1 << 16)
                    .Parse()
                    .ok())
        << type;
  }
}

}  // namespace
}  // namespace lserve
