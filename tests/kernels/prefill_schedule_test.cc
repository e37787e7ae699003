#include "kernels/cuda/attn/prefill_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <set>

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
  PrefillSchedule Schedule(const PrefillScheduleOptions& options) const {
    return SchedulePrefill(tiles, runs.data(), options);
  }
  std::vector<int32_t> Order(int group, int heads_per_section) const {
    PrefillScheduleOptions options;
    options.group = group;
    options.heads_per_section = heads_per_section;
    std::vector<int32_t> order;
    for (const PrefillPiece& p : Schedule(options).pieces) {
      EXPECT_EQ(p.blocks, kWholeTile);
      EXPECT_EQ(p.part, -1);
      const Tile& tile = tiles[static_cast<size_t>(p.tile)];
      EXPECT_EQ(p.run, tile.run_end - 1);
      EXPECT_EQ(p.count, runs[static_cast<size_t>(p.run)].count);
      order.push_back(p.tile);
    }
    return order;
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

// What a piece takes, as the kernel walks it.
std::vector<int32_t> Blocks(const Plan& plan, const PrefillPiece& piece) {
  std::vector<int32_t> blocks;
  const Tile& tile = plan.tiles[static_cast<size_t>(piece.tile)];
  Run run = plan.runs[static_cast<size_t>(piece.run)];
  run.count = piece.count;
  int left = piece.blocks;
  for (int r = piece.run; left > 0;) {
    blocks.push_back(run.first + --run.count);
    --left;
    if (run.count == 0) {
      if (--r < tile.run_begin) break;
      run = plan.runs[static_cast<size_t>(r)];
    }
  }
  return blocks;
}

// Pieces of a tile take every block of its list once, newest first; parts are numbered without
// gaps; no processor's share is much larger than another's.
TEST(SchedulePrefill, PiecesOfFewLongTiles) {
  std::mt19937 random(9);
  for (int round = 0; round < 200; ++round) {
    Plan plan;
    const int kv_heads = 1 + static_cast<int>(random() % 8), tiles = 1 + round % 6;
    const bool sparse = round % 3 == 0;
    for (int t = 0; t < tiles; ++t)
      for (int h = 0; h < kv_heads; ++h) {
        Tile tile{};
        tile.head = 4 * h;
        tile.run_begin = static_cast<int32_t>(plan.runs.size());
        const int blocks = random() % 2 ? 1 + static_cast<int>(random() % 150) : 2048;
        for (int b = 0; sparse && b < blocks; b += 7)
          plan.runs.push_back({b, 1 + static_cast<int32_t>(random() % 6), 0});
        if (!sparse) plan.runs.push_back({0, blocks, 0});
        plan.runs.push_back({blocks + 7, 2, 1});
        tile.run_end = static_cast<int32_t>(plan.runs.size());
        plan.tiles.push_back(tile);
      }
    PrefillScheduleOptions options;
    options.group = options.heads_per_tile = 4;
    options.processors = 132;
    const PrefillSchedule schedule = plan.Schedule(options);
    std::vector<PrefillMerge> merges(plan.tiles.size(), PrefillMerge{-1, 0, 0});
    int parts = 0;
    for (const PrefillMerge& m : schedule.merges) {
      EXPECT_EQ(m.part, parts);
      EXPECT_GE(m.parts, 2);
      parts += m.parts;
      merges[static_cast<size_t>(m.tile)] = m;
    }
    EXPECT_EQ(parts, schedule.num_parts);
    EXPECT_LE(parts * options.heads_per_tile, MostPrefillParts(options.processors));
    std::vector<std::vector<std::vector<int32_t>>> pieces(plan.tiles.size());
    size_t all = 0, longest = 0;
    for (const PrefillPiece& p : schedule.pieces) {
      const size_t tile = static_cast<size_t>(p.tile);
      const std::vector<int32_t> blocks = Blocks(plan, p);
      all += 4 * blocks.size();
      longest = std::max(longest, blocks.size());
      ASSERT_EQ(p.part < 0, merges[tile].tile < 0);
      const size_t at = p.part < 0 ? 0 : static_cast<size_t>(p.part - merges[tile].part);
      if (pieces[tile].size() <= at) pieces[tile].resize(at + 1);
      ASSERT_TRUE(pieces[tile][at].empty());
      pieces[tile][at] = blocks;
    }
    for (size_t t = 0; t < plan.tiles.size(); ++t) {
      std::vector<int32_t> got, want;
      for (const auto& piece : pieces[t]) got.insert(got.end(), piece.begin(), piece.end());
      for (int r = plan.tiles[t].run_end; r-- > plan.tiles[t].run_begin;) {
        const auto& run = plan.runs[static_cast<size_t>(r)];
        for (int b = run.count; b-- > 0;) want.push_back(run.first + b);
      }
      EXPECT_EQ(got, want);
    }
    EXPECT_LE(longest, std::max<size_t>(20, all / 132 * 5 / 16 + 3)) << round;
  }
}

// Some hundred tokens behind 126,000, some heads streaming: pieces taken in their order leave
// processors idle for a tenth of the time at most.
TEST(SchedulePrefill, ChunksBehindAHistorySpreadEvenly) {
  constexpr int kProcessors = 132;
  for (const int rows : {256, 384, 512, 768, 1024, 2048}) {
    double mean = 0;
    for (int retrieval = 2; retrieval <= 6; ++retrieval) {
      Plan plan;
      for (int tile = 0; tile < rows / 128; ++tile)
        for (int h = 0; h < 8; ++h) plan.Add(4 * h, h < retrieval ? 1970 + 2 * tile : 133);
      PrefillScheduleOptions options;
      options.group = options.heads_per_tile = 4;
      options.processors = kProcessors;
      const PrefillSchedule schedule = plan.Schedule(options);
      std::multiset<int64_t> busy_until;
      for (int i = 0; i < kProcessors; ++i) busy_until.insert(0);
      int64_t all = 0;
      for (const PrefillPiece& piece : schedule.pieces)
        for (int head = 0; head < 4; ++head) {
          const auto blocks = static_cast<int64_t>(Blocks(plan, piece).size());
          const int64_t begin = *busy_until.begin();
          busy_until.erase(busy_until.begin());
          busy_until.insert(begin + blocks);
          all += blocks;
        }
      mean +=
          static_cast<double>(all) / kProcessors / static_cast<double>(*busy_until.rbegin()) / 5;
    }
    EXPECT_GT(mean, 0.93) << rows;
  }
}

// A prompt in large chunks fills the GPU with whole tiles.
TEST(SchedulePrefill, ManyTilesStayWhole) {
  Plan plan;
  for (int tile = 0; tile < 64; ++tile)
    for (int h = 0; h < 8; ++h) plan.Add(4 * h, h % 2 ? 1900 + 2 * tile : 130);
  PrefillScheduleOptions options;
  options.group = options.heads_per_tile = 4;
  options.processors = 132;
  const PrefillSchedule schedule = plan.Schedule(options);
  EXPECT_EQ(schedule.pieces.size(), plan.tiles.size());
  EXPECT_TRUE(schedule.merges.empty());
}

}  // namespace
}  // namespace lserve::cuda
