// Runs of a windowed tile against the rule, over positions, sinks and windows of every alignment.
#include "sparse/windows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace lserve {
namespace {

TEST(Windows, ExactlyTheBlocksInWhichSomethingIsVisible) {
  std::mt19937_64 random(5);
  const auto pick = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1));
  };
  size_t longest = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    Tile tile{};
    tile.q_len = pick(0, 3) == 0 ? 1 : pick(1, 70);
    tile.q_pos = pick(0, 700);
    if (trial % 4 == 0) tile.q_pos = pick(0, 10) * 64 + pick(-1, 1) + 1;
    tile.kv_len = tile.q_pos + tile.q_len + pick(0, 100);  // later tiles of a chunk are stored too
    tile.sink_len = pick(0, 2) == 0 ? 64 * pick(0, 3) : pick(0, 200);
    tile.window_len = trial % 5 == 0 ? kNoWindow : pick(0, 2) == 0 ? 64 * pick(1, 5) : pick(1, 300);
    std::vector<lserve::Run> runs = {{99, 1, 0}};  // of the tile before
    tile.run_begin = 1;
    AppendWindowRuns(tile, &runs);
    tile.run_end = static_cast<int32_t>(runs.size());
    const AttnPlan plan{{1, 1, 1, 70}, {&tile, 1}, runs};
    const Status status = Validate(plan);
    ASSERT_TRUE(status.ok()) << status.ToString() << ", trial " << trial;
    longest = std::max(longest, runs.size() - 1);

    std::vector<int> listed(
        static_cast<size_t>(tile.kv_len / kBlockTokens + 1));  // 1: unmasked, 2: masked
    for (const lserve::Run& run : plan.RunsOf(tile))
      for (int b = run.first; b < run.first + run.count; ++b)
        listed[static_cast<size_t>(b)] = 1 + run.masked;
    for (int b = 0; b < static_cast<int>(listed.size()); ++b) {
      bool some = false;
      for (int q = tile.q_pos; q < tile.q_pos + tile.q_len; ++q)
        for (int k = b * kBlockTokens; k < (b + 1) * kBlockTokens; ++k)
          some = some || Visible(tile, q, k);
      ASSERT_EQ(listed[static_cast<size_t>(b)] != 0, some) << "block " << b << ", trial " << trial;
      // The fast path is for blocks of the past that are wholly sink or wholly in all windows.
      const int first = b * kBlockTokens, last = first + kBlockTokens - 1;
      const bool whole =
          last <= tile.q_pos &&
          (last < tile.sink_len || first > tile.q_pos + tile.q_len - 1 - tile.window_len);
      if (whole) {
        ASSERT_EQ(listed[static_cast<size_t>(b)], 1) << "block " << b << ", trial " << trial;
      }
    }
    EXPECT_LE(longest, 5u);
  }
  EXPECT_GE(longest, 4u);
}

}  // namespace
}  // namespace lserve
