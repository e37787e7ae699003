// Real models against transformers in float32 (tests/golden/make_real_goldens.py).
// LSERVE_GOLDEN_MODELS names a folder with smollm2-135m.gguf, smollm2-135m-longctx/ and
// qwen2.5-coder-0.5b.gguf; what is not there is skipped. Prompts longer than LSERVE_GOLDEN_TOKENS
// (default 64) are left out: `ref` is slow.
#include <gtest/gtest.h>
#include <zlib.h>

#include <cmath>
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

class ModelGolden : public testing::TestWithParam<const char*> {
 protected:
  void Check(const ForwardOptions& wanted, double limit) {
    const char* folder = std::getenv("LSERVE_GOLDEN_MODELS");
    const std::string base = std::string(folder ? folder : "") + "/" + GetParam();
    const std::string path = std::filesystem::exists(base) ? base : base + ".gguf";
    if (!folder || !std::filesystem::exists(path))
      GTEST_SKIP() << "LSERVE_GOLDEN_MODELS has no " << GetParam();
    const char* most = std::getenv("LSERVE_GOLDEN_TOKENS");
    const size_t max_tokens = most ? static_cast<size_t>(std::atoi(most)) : 64;
    const json golden = ReadGolden(GetParam());
    Result<ModelFiles> files = OpenModel(path);
    ASSERT_TRUE(files.ok()) << files.status().ToString();
    int prompts = 0;
    for (const json& prompt : golden.at("prompts")) {
      const std::vector<int32_t> ids = prompt.at("ids");
      if (ids.size() > max_tokens) continue;
      Result<std::vector<float>> logits = LastLogits(*files, ids, wanted);
      ASSERT_TRUE(logits.ok()) << logits.status().ToString();
      const double error = LastError(golden, prompt, *logits);
      std::printf("%s, %s: %zu tokens, error %.2g of the range\n", GetParam(),
                  wanted.backend.c_str(), ids.size(), error);
      EXPECT_LT(error, limit) << ids.size() << " tokens";
      ++prompts;
    }
    EXPECT_GT(prompts, 0);
  }
};

TEST_P(ModelGolden, Reference) { Check({"ref", KvType::kKv32}, 1e-3); }
TEST_P(ModelGolden, Cpu) { Check({"cpu", KvType::kKv16, true}, 1e-2); }

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
