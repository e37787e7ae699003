// The schedule of a decode launch: whatever the lists, every block is read exactly once, and
// partial results have places of their own where the merge looks for them.
#include "kernels/cuda/attn/decode_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <vector>

namespace lserve::cuda {
namespace {

constexpr int kLead = 3;

struct Made {
  std::vector<int> counts, prefixes;
  DecodeSchedule schedule{};
};

// What MakeSchedule does with a warp.
Made Make(std::vector<int> counts, int grid, bool deterministic) {
  Made m;
  m.counts = std::move(counts);
  const int tiles = static_cast<int>(m.counts.size());
  const int total = std::accumulate(m.counts.begin(), m.counts.end(), 0);
  m.prefixes.assign(2 * m.counts.size() + 2, 0);
  int filled = 0, before[2] = {}, parts = 0;
  for (int n : m.counts) {
    int units[2];
    DecodeSchedule::Units(n, true, false, kLead, units);
    parts += units[1];
  }
  deterministic |= parts <= grid;
  for (int i = 0; i < tiles; ++i) {
    int units[2];
    DecodeSchedule::Units(m.counts[static_cast<size_t>(i)], deterministic,
                          DecodeSchedule::Second(total, grid), kLead, units);
    for (int line : {0, 1}) {
      before[line] += units[line];
      m.prefixes[static_cast<size_t>(line * (tiles + 1) + i + 1)] = before[line];
    }
    filled += m.counts[static_cast<size_t>(i)] > 0;
  }
  m.schedule.counts = m.counts.data();
  m.schedule.num_tiles = tiles, m.schedule.deterministic = deterministic;
  m.schedule.Cut(m.prefixes.data(), grid, filled, kLead);
  return m;
}

void Check(const std::vector<int>& counts, int grid, bool deterministic) {
  const Made m = Make(counts, grid, deterministic);
  std::vector<std::vector<int>> reads;
  for (int n : counts) reads.emplace_back(static_cast<size_t>(n), 0);
  std::map<int, int> tile_of_slot;
  std::vector<int> segments(counts.size());
  int longest = 0;
  SegmentWalk walk(m.schedule);
  for (int line : {0, 1}) {
    if (line == 0 && deterministic) continue;
    ASSERT_LE(line == 0 ? m.schedule.lines[0].shares : 0, grid);
    for (int share = 0; share < m.schedule.lines[line].shares; ++share) {
      walk.Start(line, share);
      int blocks = 0;
      for (Segment s; walk.Next(&s);) {
        ASSERT_LT(s.begin, s.end);
        ASSERT_LE(s.end, counts[static_cast<size_t>(s.tile)]);
        for (int b = s.begin; b < s.end; ++b)
          ++reads[static_cast<size_t>(s.tile)][static_cast<size_t>(b)];
        ++segments[static_cast<size_t>(s.tile)];
        blocks += s.end - s.begin;
        if (s.slot < 0) {
          EXPECT_EQ(s.end - s.begin, counts[static_cast<size_t>(s.tile)]);
        } else {
          ASSERT_LT(s.slot, DecodeSlots(static_cast<int64_t>(counts.size()), deterministic));
          EXPECT_TRUE(tile_of_slot.emplace(s.slot, s.tile).second) << "slot " << s.slot;
        }
      }
      if (line == 0) longest = std::max(longest, blocks);
    }
    walk.Start(line, m.schedule.lines[line].shares);  // past the last
    Segment none;
    EXPECT_FALSE(walk.Next(&none));
  }
  for (size_t t = 0; t < counts.size(); ++t) {
    for (int times : reads[t]) ASSERT_EQ(times, 1);
    const TileSlots slots = m.schedule.Slots(static_cast<int>(t));
    ASSERT_EQ(slots.Total(), segments[t]);
    ASSERT_LE(slots.Total(), deterministic ? kMaxParts : kMostSlots);
    for (int i = 0; slots.Total() > 1 && i < slots.Total(); ++i)
      ASSERT_EQ(tile_of_slot[slots.At(i)], static_cast<int>(t));
  }
  if (!deterministic) {
    int total = 0;
    for (int n : counts) total += n > 0 ? n + kLead : 0;
    EXPECT_LE(longest, (total + grid - 1) / grid);
  }
}

TEST(DecodeSchedule, EveryBlockOnceAndSlotsApart) {
  std::mt19937 random(1);
  for (int round = 0; round < 400; ++round) {
    const int grid = std::vector<int>{1, 2, 108, 132, 160}[random() % 5];
    std::vector<int> counts(random() % 3 == 0 ? 1 + random() % 4 : 1 + random() % 300);
    const unsigned most = std::vector<unsigned>{2, 8, 64, 300, 4096}[random() % 5];
    for (int& n : counts) n = random() % 8 == 0 ? 0 : static_cast<int>(random() % most);
    for (bool deterministic : {false, true}) Check(counts, grid, deterministic);
    if (HasFatalFailure()) return;
  }
}

TEST(DecodeSchedule, CornerLists) {
  for (bool deterministic : {false, true})
    for (const std::vector<int>& counts :
         {std::vector<int>{0}, {0, 0, 0}, {1}, {16384}, {1, 0, 16384, 0, 1}, {0, 5, 0}})
      Check(counts, 132, deterministic);
}

// The pieces of one tile's list, as (begin, end).
std::vector<std::pair<int, int>> Pieces(const std::vector<int>& counts, int tile, int grid) {
  const Made m = Make(counts, grid, true);
  std::vector<std::pair<int, int>> out;
  SegmentWalk walk(m.schedule);
  for (int share = 0; share < m.schedule.lines[1].shares; ++share) {
    walk.Start(1, share);
    for (Segment s; walk.Next(&s);)
      if (s.tile == tile) out.emplace_back(s.begin, s.end);
  }
  return out;
}

// What `deterministic` promises: a list is cut by its own length, whatever else is in the batch.
TEST(DecodeSchedule, PartsDependOnTheListAlone) {
  for (int n : {1, 4, 5, 128, 129, 511, 513, 2048, 16384}) {
    const auto alone = Pieces({n}, 0, 132);
    EXPECT_EQ(Pieces({7, 0, n, 300}, 2, 132), alone) << n;
    EXPECT_EQ(Pieces({2000, n}, 1, 16), alone) << n;
    EXPECT_LE(alone.size(), static_cast<size_t>(kMaxParts)) << n;
  }
}

// Either kind of launch fits into a workspace made for a deterministic one.
TEST(DecodeSchedule, WorkspaceOfEitherKind) {
  for (int64_t tiles : {1, 8, 27, 2048})
    EXPECT_GE(DecodeSlots(tiles, true), DecodeSlots(tiles, false));
}

}  // namespace
}  // namespace lserve::cuda
