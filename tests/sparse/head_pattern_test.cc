// Gate tables: the shipped ones split as numpy's quantile splits them, ties by a fixed rule, and
// damaged files named with their line.
#include "sparse/head_pattern.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

namespace lserve {
namespace {

const std::string kData = LSERVE_SOURCE_DIR "/data/";

std::vector<int> RetrievalHeads(const HeadSplit& split) {
  std::vector<int> counts;
  for (const HeadMap& layer : split.layers) counts.push_back(layer.count(HeadClass::kRetrieval));
  return counts;
}

HeadPattern Load(const std::string& path) {
  Result<HeadPattern> pattern = LoadHeadPattern(path);
  CHECK(pattern.ok());
  return *std::move(pattern);
}

// numpy.quantile(gates, q), method "linear".
double Quantile(std::vector<float> gates, double q) {
  std::sort(gates.begin(), gates.end());
  const double at = q * static_cast<double>(gates.size() - 1);
  const size_t i = static_cast<size_t>(at);
  if (i + 1 == gates.size()) return gates[i];
  return gates[i] + (at - static_cast<double>(i)) * (static_cast<double>(gates[i + 1]) - gates[i]);
}

std::vector<int> AtOrAbove(const HeadPattern& pattern, double threshold) {
  std::vector<int> counts(static_cast<size_t>(pattern.layers));
  for (size_t i = 0; i < pattern.gates.size(); ++i)
    counts[i / static_cast<size_t>(pattern.kv_heads)] += pattern.gates[i] >= threshold;
  return counts;
}

// Heads per layer at or above numpy.quantile(gates, 0.5), computed with numpy 2.4. Three gates of
// the Llama table equal its median: `>=` alone keeps all three, the tie rule the first, so that
// half of the heads stream.
TEST(SplitHeads, ShippedTablesAtOneHalf) {
  const HeadPattern llama =
      Load(kData + "head_patterns/Llama-3-8B-Instruct-Gradient-1048k/full_attention_heads.tsv");
  std::vector<int> numpy = {1, 1, 3, 2, 2, 4, 2, 4, 6, 4, 5, 3, 2, 6, 5, 5,
                            5, 6, 3, 5, 6, 3, 3, 6, 4, 5, 3, 4, 6, 5, 8, 3};
  EXPECT_EQ(AtOrAbove(llama, Quantile(llama.gates, 0.5)), numpy);
  const HeadSplit split = SplitHeads(llama, 0.5);
  EXPECT_FALSE(split.layers[2].streaming(3));
  for (auto [layer, head] : {std::pair{25, 4}, {31, 7}}) {
    EXPECT_EQ(llama.gates[static_cast<size_t>(layer * 8 + head)], llama.gates[2 * 8 + 3]);
    EXPECT_TRUE(split.layers[static_cast<size_t>(layer)].streaming(head));
    --numpy[static_cast<size_t>(layer)];
  }
  EXPECT_EQ(RetrievalHeads(split), numpy);
  EXPECT_EQ(split.streaming, 128);

  const HeadPattern smol = Load(kData + "models/smollm2-135m-longctx/full_attention_heads.tsv");
  EXPECT_EQ(RetrievalHeads(SplitHeads(smol, 0.5)),
            (std::vector<int>{2, 1, 2, 1, 0, 1, 1, 2, 2, 1, 0, 1, 1, 0, 3,
                              1, 1, 2, 1, 2, 3, 3, 2, 3, 3, 0, 2, 0, 1, 3}));
}

// Above the quantile retrieves, below it streams, at it the tie rule decides; on every table we
// have.
TEST(SplitHeads, FollowsTheQuantile) {
  int tables = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kData)) {
    if (entry.path().filename() != "full_attention_heads.tsv") continue;
    ++tables;
    const HeadPattern pattern = Load(entry.path());
    EXPECT_EQ(pattern.gates.size(), static_cast<size_t>(pattern.layers * pattern.kv_heads));
    for (float gate : pattern.gates) EXPECT_TRUE(gate >= 0 && gate <= 1);
    for (double q : {0.1, 0.25, 0.5, 0.6180339, 0.75, 0.999}) {
      const double threshold = Quantile(pattern.gates, q);
      const HeadSplit split = SplitHeads(pattern, q);
      int streaming = 0;
      double lost = 0, sum = 0;
      for (int layer = 0; layer < pattern.layers; ++layer)
        for (int h = 0; h < pattern.kv_heads; ++h) {
          const float gate = pattern.gates[static_cast<size_t>(layer * pattern.kv_heads + h)];
          const bool streams = split.layers[static_cast<size_t>(layer)].streaming(h);
          if (gate > threshold) {
            EXPECT_FALSE(streams) << entry.path() << " " << q;
          }
          if (gate < threshold) {
            EXPECT_TRUE(streams) << entry.path() << " " << q;
          }
          streaming += streams;
          lost += streams ? gate : 0;
          sum += gate;
        }
      const double heads = static_cast<double>(pattern.gates.size());
      EXPECT_EQ(streaming, static_cast<int>(std::ceil(q * (heads - 1))))
          << entry.path() << " " << q;
      EXPECT_EQ(split.streaming, streaming);
      EXPECT_EQ(split.total, pattern.layers * pattern.kv_heads);
      EXPECT_NEAR(split.lost_gate_mass, lost / sum, 1e-12);
    }
  }
  EXPECT_EQ(tables, 8);
}

TEST(SplitHeads, TiesGoByLayerAndHead) {
  HeadPattern pattern;
  pattern.layers = 2;
  pattern.kv_heads = 3;
  pattern.gates = {1, 1, 0, 1, 1, 1};
  // 0.5 * 5 rounded up: 3 stream, the smallest gate and then the latest of the equal ones.
  const HeadSplit split = SplitHeads(pattern, 0.5);
  const bool streams[2][3] = {{false, false, true}, {false, true, true}};
  for (int layer : {0, 1})
    for (int h = 0; h < 3; ++h)
      EXPECT_EQ(split.layers[static_cast<size_t>(layer)].streaming(h), streams[layer][h])
          << layer << h;
  EXPECT_NEAR(split.lost_gate_mass, 2.0 / 5, 1e-12);
}

TEST(SplitHeads, Extremes) {
  HeadPattern pattern;
  pattern.layers = 1;
  pattern.kv_heads = 4;
  pattern.gates = {0.1f, 0.4f, 0.3f, 0.2f};
  EXPECT_EQ(SplitHeads(pattern, 0).streaming, 0);
  EXPECT_EQ(SplitHeads(pattern, -1).streaming, 0);
  EXPECT_EQ(SplitHeads(pattern, 1).streaming, 4);
  EXPECT_EQ(SplitHeads(pattern, 2).streaming, 4);
  EXPECT_EQ(SplitHeads(pattern, 0.999).streaming, 3) << "the largest gate is at its own quantile";
  EXPECT_EQ(SplitHeads(pattern, 1e-9).streaming, 1);
  pattern.gates = {0, 0, 0, 0};
  EXPECT_EQ(SplitHeads(pattern, 0.5).lost_gate_mass, 0);
  EXPECT_EQ(RetrievalHeads(AllRetrieval(3, 2)), (std::vector<int>{2, 2, 2}));
  EXPECT_EQ(AllRetrieval(3, 2).streaming, 0);
  EXPECT_EQ(AllRetrieval(3, 2).total, 6);
}

class PatternFile : public ::testing::Test {
 protected:
  PatternFile() : path_(::testing::TempDir() + fmt::format("/pattern_{}.tsv", getpid())) {}
  ~PatternFile() override { std::filesystem::remove(path_); }
  Result<HeadPattern> LoadText(const std::string& text) {
    std::ofstream(path_, std::ios::binary) << text;
    return LoadHeadPattern(path_);
  }
  const std::string path_;
};

TEST_F(PatternFile, ReadsAndClips) {
  const Result<HeadPattern> pattern =
      LoadText("0.5\t-1e-4\t2\r\n\n 1e-1 \t1.000000000000000000e+00\t0");
  ASSERT_TRUE(pattern.ok()) << pattern.status().ToString();
  EXPECT_EQ(pattern->layers, 2);
  EXPECT_EQ(pattern->kv_heads, 3);
  EXPECT_EQ(pattern->gates, (std::vector<float>{0.5f, 0, 1, 0.1f, 1, 0}));
  EXPECT_EQ(pattern->source, path_);
}

TEST_F(PatternFile, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> bad[] = {
      {"", "no rows"},
      {"\n\n", "no rows"},
      {"1\t0\n1\n", ":2: 1 columns"},
      {"1\tx\n", ":1: not a gate"},
      {"1\n\nnan\n", ":3: not a gate"},
      {"inf\n", ":1: not a gate"},
      {"1e999\n", ":1: not a gate"},
      {"1,0\n", ":1: not a gate"},
      {"0.5\t0.5abc\n", ":1: not a gate"},
  };
  for (const auto& [text, message] : bad) {
    const Result<HeadPattern> pattern = LoadText(text);
    ASSERT_FALSE(pattern.ok()) << text;
    EXPECT_EQ(pattern.status().code(), Code::kInvalidArgument) << text;
    EXPECT_NE(pattern.status().message().find(path_), std::string::npos) << text;
    EXPECT_NE(pattern.status().message().find(message), std::string::npos)
        << pattern.status().ToString();
  }
  EXPECT_EQ(LoadHeadPattern("/nowhere/heads.tsv").status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace lserve
