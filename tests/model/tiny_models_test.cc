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

  // Errors of logits above `limit`, a share of their range, fail; so does a first difference of
  // greedy tokens where the recorded choice was clearer than two such errors: not a near tie.
  void Check(const ForwardOptions& wanted, double limit) {
    const json& golden = GetParam().golden;
    Result<ModelFiles> files = OpenModel(Path());
    ASSERT_TRUE(files.ok()) << files.status().ToString();
    ForwardOptions options = wanted;
    options.max_context = golden.at("max_context");
    Result<std::unique_ptr<ForwardHarness>> harness =
        ForwardHarness::Make(*files, options.max_context + 64, options);
    ASSERT_TRUE(harness.ok()) << harness.status().ToString();
    for (const json& prompt : golden.at("prompts")) {
      (*harness)->Restart();
      const std::vector<float> logits = (*harness)->Feed(prompt.at("ids"));
      const std::vector<float> expected = prompt.at("logits");
      ASSERT_EQ(logits.size(), expected.size());
      const auto [low, high] = std::minmax_element(expected.begin(), expected.end());
      const double range = *high - *low;
      double worst = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        const double error = std::abs(logits[i] - expected[i]) / range;
        worst = std::isnan(error) ? INFINITY : std::max(worst, error);
      }
      EXPECT_LT(worst, limit);
      RecordProperty("error", fmt::format("{:.2g}", worst));
      if (!prompt.contains("greedy")) continue;
      const std::vector<int32_t> greedy = prompt.at("greedy");
      const GreedyOutcome outcome =
          CompareGreedy(harness->get(), logits, greedy, prompt.at("gaps"));
      if (outcome.same == static_cast<int>(greedy.size())) continue;
      const std::string tie = fmt::format(
          "{} of 64 greedy tokens as recorded, there the recorded gap is {:.2g} and "
          "ours {:.2g} of the range",
          outcome.same, outcome.gap / range, outcome.own_gap / range);
      EXPECT_LT(outcome.gap / range, 2 * limit) << tie;
      fmt::print("near tie: {}\n", tie);
    }
  }

 private:
  fs::path directory_;
};

TEST_P(TinyModel, ReferenceMatchesTransformers) { Check({"ref", KvType::kKv32}, 1e-4); }
TEST_P(TinyModel, CpuIsNearTransformers) { Check({"cpu", KvType::kKv16, true}, 1e-2); }

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
