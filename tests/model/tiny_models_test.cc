// Every architecture and rope kind, from safetensors and from GGUF, against transformers in float32
// (tests/golden/make_tiny_models.py).
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/model/forward_harness.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kTiny = fs::path(LSERVE_SOURCE_DIR) / "tests/golden/tiny";

// A tokenizer.json with as many tokens as the tiny models have.
std::string TinyTokenizer() {
  json vocab = json::object();
  for (int i = 0; i < 128; ++i) vocab["t" + std::to_string(i)] = i;
  return json{{"version", "1.0"},
              {"added_tokens", json::array()},
              {"normalizer", nullptr},
              {"pre_tokenizer",
               {{"type", "ByteLevel"},
                {"add_prefix_space", false},
                {"trim_offsets", true},
                {"use_regex", true}}},
              {"post_processor", nullptr},
              {"decoder",
               {{"type", "ByteLevel"},
                {"add_prefix_space", true},
                {"trim_offsets", true},
                {"use_regex", true}}},
              {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}}
      .dump();
}

// A golden with a name to print, not its numbers.
struct TinyCase {
  json golden;
};
std::ostream& operator<<(std::ostream& out, const TinyCase& tiny) {
  return out << tiny.golden.at("name").get<std::string>();
}

class TinyModel : public testing::TestWithParam<TinyCase> {
 protected:
  void TearDown() override {
    if (!directory_.empty()) fs::remove_all(directory_);
  }

  // The file, or a directory put together from the committed parts.
  std::string Path() {
    const json& golden = GetParam().golden;
    if (golden.contains("gguf")) return (kTiny / golden.at("gguf").get<std::string>()).string();
    directory_ = fs::path(testing::TempDir()) /
                 ("lserve-" + golden.at("name").get<std::string>() + std::to_string(getpid()));
    fs::create_directories(directory_);
    const fs::path weights = directory_ / "model.safetensors", config = directory_ / "config.json";
    fs::copy_file(kTiny / golden.at("weights").get<std::string>(), weights,
                  fs::copy_options::overwrite_existing);
    fs::copy_file(kTiny / golden.at("config").get<std::string>(), config,
                  fs::copy_options::overwrite_existing);
    std::ofstream(directory_ / "tokenizer.json") << TinyTokenizer();
    return directory_.string();
  }

  // The largest error over all prompts, as a share of the logits' range.
  double Error(const ForwardOptions& wanted) {
    Result<ModelFiles> files = OpenModel(Path());
    EXPECT_TRUE(files.ok()) << files.status().ToString();
    if (!files.ok()) return INFINITY;
    double worst = 0;
    for (const json& prompt : GetParam().golden.at("prompts")) {
      ForwardOptions options = wanted;
      options.max_context = GetParam().golden.at("max_context");
      Result<std::vector<float>> logits =
          LastLogits(*files, prompt.at("ids").get<std::vector<int32_t>>(), options);
      EXPECT_TRUE(logits.ok()) << logits.status().ToString();
      if (!logits.ok()) return INFINITY;
      const std::vector<float> expected = prompt.at("logits");
      EXPECT_EQ(logits->size(), expected.size());
      const auto [low, high] = std::minmax_element(expected.begin(), expected.end());
      for (size_t i = 0; i < expected.size(); ++i) {
        const double error = std::abs((*logits)[i] - expected[i]) / (*high - *low);
        worst = std::isnan(error) ? INFINITY : std::max(worst, error);
      }
    }
    return worst;
  }

 private:
  fs::path directory_;
};

TEST_P(TinyModel, ReferenceMatchesTransformers) { EXPECT_LT(Error({"ref", KvType::kKv32}), 1e-4); }

// bfloat16 weights, activations and KV. The random weights amplify rounding: keys rounded to
// bfloat16 alone cost `ref` up to 0.7 % here, and all three cost `cpu` 0.3 % to 2.1 %, measured
// with AVX-512. The bar is above that; the structure is held to 1e-4 by the test before.
TEST_P(TinyModel, CpuIsNearTransformers) { EXPECT_LT(Error({"cpu", KvType::kKv16, true}), 3e-2); }

std::vector<TinyCase> Goldens() {
  std::ifstream in(kTiny / "goldens.json");
  std::vector<TinyCase> cases;
  for (json& golden : json::parse(in)) cases.push_back({std::move(golden)});
  return cases;
}

std::string Name(const testing::TestParamInfo<TinyCase>& info) {
  std::string name = info.param.golden.at("name");
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, TinyModel, testing::ValuesIn(Goldens()), Name);

}  // namespace
}  // namespace lserve
