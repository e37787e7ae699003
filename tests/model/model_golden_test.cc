// Real models against transformers in float32 (tests/golden/make_real_goldens.py): logits, and 64
// tokens chosen greedily. LSERVE_GOLDEN_MODELS names a folder with smollm2-135m.gguf,
// smollm2-135m-longctx/ and qwen2.5-coder-0.5b.gguf (default: where tools/fetch_model.py puts
// them); what is not there is skipped. Prompts longer than LSERVE_GOLDEN_TOKENS (default 4096; 0
// for `ref`, which is slow) are left out. LSERVE_GOLDEN_THREADS (default 1) is for running one of
// these tests alone; results do not depend on it.
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/model/forward_harness.h"

namespace lserve {
namespace {

using nlohmann::json;

json ReadGolden(const std::string& name) {
  const std::string path =
      std::string(LSERVE_SOURCE_DIR) + "/tests/golden/real_" + name + ".json.gz";
  const gzFile file = gzopen(path.c_str(), "rb");
  EXPECT_NE(file, nullptr) << path;
  std::string text;
  char piece[65536];
  for (int n; (n = gzread(file, piece, sizeof(piece))) > 0;)
    text.append(piece, static_cast<size_t>(n));
  gzclose(file);
  return json::parse(text);
}

// The largest error of the last position's logits, as a share of their range.
double LastError(const json& golden, const json& prompt, const std::vector<float>& logits) {
  const json& last = prompt.at("logits").back();
  const double range = last.at("max").get<double>() - last.at("min").get<double>();
  double worst = 0;
  const auto compare = [&](const json& ids, const json& values) {
    for (size_t i = 0; i < ids.size(); ++i) {
      const double error =
          std::abs(logits.at(ids[i].get<size_t>()) - values[i].get<double>()) / range;
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  };
  compare(last.at("top_ids"), last.at("top_logits"));
  compare(golden.at("sample_ids"), last.at("sample_logits"));
  return worst;
}

std::string ModelFolder() {
  if (const char* folder = std::getenv("LSERVE_GOLDEN_MODELS")) return folder;
  const char* cache = std::getenv("LSERVE_CACHE");
  const char* home = std::getenv("HOME");
  return (cache ? std::string(cache) : std::string(home ? home : "") + "/.cache/lserve") +
         "/models";
}

class ModelGolden : public testing::TestWithParam<const char*> {
 protected:
  // Errors of logits above `limit`, a share of their range, fail. So does a first difference of
  // greedy tokens where the recorded choice was clearer than two such errors: not a near tie.
  void Check(ForwardOptions options, double limit, size_t max_tokens) {
    const std::string base = ModelFolder() + "/" + GetParam();
    const std::string path = std::filesystem::exists(base) ? base : base + ".gguf";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
    if (const char* most = std::getenv("LSERVE_GOLDEN_TOKENS"))
      max_tokens = static_cast<size_t>(std::atoi(most));
    if (const char* threads = std::getenv("LSERVE_GOLDEN_THREADS"))
      options.threads = std::atoi(threads);
    if (max_tokens == 0) GTEST_SKIP() << "takes minutes: LSERVE_GOLDEN_TOKENS=64 runs it";
    const json golden = ReadGolden(GetParam());
    std::vector<const json*> prompts;
    size_t longest = 0;
    for (const json& prompt : golden.at("prompts")) {
      const size_t length = prompt.at("ids").size();
      if (length > max_tokens) continue;
      prompts.push_back(&prompt);
      longest = std::max(longest, length + prompt.at("greedy").size());
    }
    ASSERT_FALSE(prompts.empty());
    Result<ModelFiles> files = OpenModel(path);
    ASSERT_TRUE(files.ok()) << files.status().ToString();
    Result<std::unique_ptr<ForwardHarness>> harness =
        ForwardHarness::Make(*files, static_cast<int>(longest), options);
    ASSERT_TRUE(harness.ok()) << harness.status().ToString();
    for (const json* prompt : prompts) {
      const std::vector<int32_t> ids = prompt->at("ids"), greedy = prompt->at("greedy");
      ASSERT_EQ(greedy.size(), 64u);
      (*harness)->Restart();
      const std::vector<float>& logits = (*harness)->Feed(ids);
      const double error = LastError(golden, *prompt, logits);
      EXPECT_LT(error, limit) << ids.size() << " tokens";
      const GreedyOutcome outcome =
          CompareGreedy(harness->get(), logits, greedy, prompt->at("gaps"));
      const json& last = prompt->at("logits").back();
      const double range = last.at("max").get<double>() - last.at("min").get<double>();
      std::string tie;
      if (outcome.same < 64) {
        tie = fmt::format(", there a near tie: recorded gap {:.2g}, ours {:.2g} of the range",
                          outcome.gap / range, outcome.own_gap / range);
        EXPECT_LT(outcome.gap / range, 2 * limit) << ids.size() << " tokens" << tie;
      }
      fmt::print("{}, {}: {} tokens, error {:.2g} of the range; greedy tokens as recorded: {}{}\n",
                 GetParam(), options.backend, ids.size(), error, outcome.same, tie);
      std::fflush(stdout);  // the next may take minutes
    }
  }
};

TEST_P(ModelGolden, Reference) {
  ForwardOptions options{"ref", KvType::kKv32};
  options.chunk = 512;
  Check(options, 1e-3, 0);
}
TEST_P(ModelGolden, Cpu) {
  ForwardOptions options{"cpu", KvType::kKv16, true};
  options.chunk = 512;
  Check(options, 1e-2, 4096);
}
TEST_P(ModelGolden, Cuda) {
  if (const Result<std::unique_ptr<Device>> gpu = OpenDevice(0); !gpu.ok())
    GTEST_SKIP() << gpu.status().message();
  ForwardOptions options{"cuda", KvType::kKv16, true};
  options.chunk = 1024;
  Check(options, 1e-2, 4096);
}

INSTANTIATE_TEST_SUITE_P(Real, ModelGolden,
                         testing::Values("smollm2-135m", "smollm2-135m-longctx",
                                         "qwen2.5-coder-0.5b"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

}  // namespace
}  // namespace lserve
