#include "kernels/cuda/attn/prefill_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

namespace lserve::cuda {
namespace {

// Tiles of `heads` query heads each, with the given blocks in two runs.
struct Plan {
  std::vector<Tile> tiles;
  std::vector<Run> runs;

  void Add(int head, int blocks) {
    Tile t{};
    t.head = head;
    t.run_begin = static_cast<int32_t>(runs.size());
    if (blocks > 1) runs.push_back({0, blocks - 1, 0});
    runs.push_back({blocks + 5, 1, 1});
    t.run_end = static_cast<int32_t>(runs.size());
    tiles.push_back(t);
  }
  std::vector<int32_t> Order(int group, int heads_per_section) const {
    return PrefillOrder(tiles, runs.data(), group, heads_per_section);
  }
};

TEST(PrefillOrder, LongestFirstAndEqualsInTheirOrder) {
  Plan plan;
  for (int blocks : {3, 9, 1, 9, 4, 3}) plan.Add(0, blocks);
  EXPECT_EQ(plan.Order(4, 1), (std::vector<int32_t>{1, 3, 4, 0, 5, 2}));
  EXPECT_TRUE(Plan{}.Order(4, 1).empty());
}

TEST(PrefillOrder, SectionsWithMostWorkFirst) {
  // KV heads 0 and 1 stream, 2 and 3 see everything; groups of 4 query heads.
  Plan plan;
  for (int tile = 0; tile < 3; ++tile)
    for (int kv_head = 0; kv_head < 4; ++kv_head)
      plan.Add(kv_head * 4, kv_head < 2 ? 2 : 10 * (tile + 1));
  EXPECT_EQ(plan.Order(4, 1), (std::vector<int32_t>{10, 6, 2, 11, 7, 3, 0, 4, 8, 1, 5, 9}));
  EXPECT_EQ(plan.Order(4, 2), (std::vector<int32_t>{10, 11, 6, 7, 2, 3, 0, 1, 4, 5, 8, 9}));
  EXPECT_EQ(plan.Order(4, 4), (std::vector<int32_t>{10, 11, 6, 7, 2, 3, 0, 1, 4, 5, 8, 9}));
}

// Lists of many runs are estimated: neighbours, a third apart, may change places, not more.
TEST(PrefillOrder, LongListsByEstimate) {
  Plan plan;
  std::mt19937 random(5);
  for (int tile = 0; tile < 20; ++tile) {
    Tile t{};
    t.run_begin = static_cast<int32_t>(plan.runs.size());
    const int count = static_cast<int>(100 * std::pow(1.33, tile % 10));
    for (int r = 0; r < count; ++r)
      plan.runs.push_back({8 * r, 1 + static_cast<int32_t>(random() % 3), 0});
    t.run_end = static_cast<int32_t>(plan.runs.size());
    plan.tiles.push_back(t);
  }
  const std::vector<int32_t> order = plan.Order(1, 1);
  for (size_t i = 0; i < order.size(); ++i)
    EXPECT_LE(std::abs(order[i] % 10 - (9 - static_cast<int>(i) / 2)), 1) << i;
}

TEST(PrefillOrder, EveryTileOnceWithHeadsOfPartOfAGroup) {
  Plan plan;
  for (int i = 0; i < 1000; ++i) plan.Add(i % 12, 1 + i * 7919 % 513);
  for (int heads_per_section : {1, 2, 3}) {
    std::vector<int32_t> order = plan.Order(6, heads_per_section);
    std::sort(order.begin(), order.end());
    ASSERT_EQ(order.size(), plan.tiles.size());
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  }
}

}  // namespace
}  // namespace lserve::cuda
