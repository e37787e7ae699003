// Runs, the mask a plan means, and Validate: a table of ways to break a valid plan, each of which
// must be found and named.
#include "plan/attn_plan.h"

#include <gtest/gtest.h>

#include <functional>

#include "plan/head_map.h"

namespace lserve {
namespace {

bool operator==(const Run& a, const Run& b) {
  return a.first == b.first && a.count == b.count && a.masked == b.masked;
}

TEST(AppendRuns, JoinsNeighboursOfOneKind) {
  std::vector<lserve::Run> runs = {{7, 1, 0}};
  const int32_t blocks[] = {8, 9, 12, 13, 14, 15};
  AppendRuns(blocks, 14, &runs);
  const std::vector<lserve::Run> expected = {{7, 1, 0}, {8, 2, 0}, {12, 2, 0}, {14, 2, 1}};
  ASSERT_EQ(runs.size(), expected.size()) << "a run of another tile is not continued";
  for (size_t i = 0; i < runs.size(); ++i) EXPECT_TRUE(runs[i] == expected[i]) << i;
  AppendRuns({}, 0, &runs);
  EXPECT_EQ(runs.size(), expected.size());
}

// A chunk of a prompt and a streaming decode row: two KV heads, groups of two.
struct Plan {
  PlanShape shape{4, 2, 2, 64};
  std::vector<Tile> tiles = {
      {0, 0, 0, 64, 130, 194, 0, 2, 0, kNoWindow},
      {1, 2, 64, 1, 700, 701, 2, 6, 64, 128},
  };
  // The window of position 700 begins at 573, inside block 8.
  std::vector<Run> runs = {{0, 2, 0}, {2, 2, 1}, {0, 1, 0}, {8, 1, 1}, {9, 1, 0}, {10, 1, 1}};
  AttnPlan plan() const { return {shape, tiles, runs}; }
};

TEST(Validate, AcceptsGoodPlans) {
  const Plan p;
  EXPECT_TRUE(Validate(p.plan()).ok()) << Validate(p.plan()).ToString();
  EXPECT_TRUE(Validate({p.shape, {}, {}}).ok());
  EXPECT_EQ(ListedBlocks(p.plan(), p.tiles[0]), 4);
  EXPECT_EQ(ListedBlocks(p.plan(), p.tiles[1]), 4);
  // Masking more than is needed costs time, not correctness.
  Plan masked;
  for (lserve::Run& run : masked.runs) run.masked = 1;
  EXPECT_TRUE(Validate(masked.plan()).ok());
  // A list need not hold what a window would let it see.
  Plan sparse;
  sparse.runs[0] = {1, 1, 0};
  EXPECT_TRUE(Validate(sparse.plan()).ok());
}

TEST(Validate, NamesEachBrokenRule) {
  struct Mutation {
    const char* what;
    std::function<void(Plan*)> apply;
    const char* message;
  };
  const Mutation mutations[] = {
      {"no KV heads", [](Plan* p) { p->shape.num_kv_heads = 0; }, "KV heads"},
      {"heads not in groups", [](Plan* p) { p->shape.num_q_heads = 5; }, "5 query heads"},
      {"no heads a tile", [](Plan* p) { p->shape.heads_per_tile = 0; }, "heads a tile"},
      {"more heads than a group", [](Plan* p) { p->shape.heads_per_tile = 4; }, "heads a tile"},
      {"negative slot", [](Plan* p) { p->tiles[1].seq = -1; }, "tile 1: sequence"},
      {"negative row", [](Plan* p) { p->tiles[0].q_begin = -1; }, "tile 0: sequence or query"},
      {"no queries", [](Plan* p) { p->tiles[1].q_len = 0; }, "tile 1: sequence or query"},
      {"tile too long", [](Plan* p) { p->shape.q_tile = 63; }, "tile 0: sequence or query"},
      {"negative head", [](Plan* p) { p->tiles[1].head = -2; }, "tile 1: head"},
      {"head past the last", [](Plan* p) { p->tiles[1].head = 4; }, "tile 1: head"},
      {"head between two lists", [](Plan* p) { p->tiles[1].head = 1; }, "tile 1: head"},
      {"negative position", [](Plan* p) { p->tiles[0].q_pos = -1; }, "tile 0: queries"},
      {"query past kv_len", [](Plan* p) { p->tiles[0].kv_len = 193; }, "tile 0: queries past"},
      {"negative sink", [](Plan* p) { p->tiles[1].sink_len = -1; }, "tile 1: negative sink"},
      {"empty window", [](Plan* p) { p->tiles[1].window_len = 0; },
       "tile 1: negative sink or empty"},
      {"negative run index", [](Plan* p) { p->tiles[0].run_begin = -1; }, "tile 0: run range"},
      {"runs backwards", [](Plan* p) { p->tiles[0].run_begin = 3; }, "tile 0: run range"},
      {"runs past the last", [](Plan* p) { p->tiles[1].run_end = 7; }, "tile 1: run range"},
      {"no runs", [](Plan* p) { p->tiles[0].run_end = 0; }, "tile 0: newest block"},
      {"empty run", [](Plan* p) { p->runs[4].count = 0; }, "tile 1, run 2: empty"},
      {"overlap",
       [](Plan* p) {
         p->runs[0] = {0, 3, 1};
       },
       "tile 0, run 1: not ascending"},
      {"descending", [](Plan* p) { std::swap(p->runs[2], p->runs[3]); },
       "tile 1, run 1: not ascending"},
      {"negative block",
       [](Plan* p) {
         p->runs[0] = {-1, 2, 0};
       },
       "tile 0, run 0: not ascending"},
      {"block of the future", [](Plan* p) { p->runs[1].count = 3; },
       "tile 0, run 1: past the newest"},
      {"newest block missing", [](Plan* p) { p->runs[1].count = 1; }, "tile 0: newest block"},
      {"a query's own block missing",
       [](Plan* p) {
         p->runs[1] = {3, 1, 1};
       },
       "tile 0: newest block"},
      {"block that only the last queries see whole",
       [](Plan* p) {
         p->runs[0].count = 3, p->runs[1] = {3, 1, 1};
       },
       "tile 0, run 0: partly visible"},
      {"diagonal unmasked", [](Plan* p) { p->runs[1].masked = 0; },
       "tile 0, run 1: partly visible"},
      {"window edge unmasked", [](Plan* p) { p->runs[3].masked = 0; },
       "tile 1, run 1: partly visible"},
      {"sink edge unmasked", [](Plan* p) { p->tiles[1].sink_len = 63; },
       "tile 1, run 0: partly visible"},
      {"block in the gap unmasked", [](Plan* p) { p->runs[2].count = 2; },
       "tile 1, run 0: partly visible"},
  };
  for (const Mutation& m : mutations) {
    Plan p;
    m.apply(&p);
    const Status status = Validate(p.plan());
    EXPECT_FALSE(status.ok()) << m.what;
    EXPECT_NE(status.message().find(m.message), std::string::npos)
        << m.what << ": " << status.ToString();
  }
}

TEST(ToDenseMask, IsTheRuleInListedBlocks) {
  const Plan p;
  for (const Tile& tile : p.tiles) {
    const auto mask = ToDenseMask(p.plan(), tile);
    ASSERT_EQ(mask.size(), static_cast<size_t>(tile.q_len));
    for (int q = 0; q < tile.q_len; ++q) {
      ASSERT_EQ(mask[static_cast<size_t>(q)].size(), static_cast<size_t>(tile.kv_len));
      for (int k = 0; k < tile.kv_len; ++k) {
        const int i = tile.q_pos + q;
        const bool streaming = tile.window_len == 128;
        const bool wanted = streaming ? k <= i && (k < 64 || k > i - 128) : k <= i;
        ASSERT_EQ(mask[static_cast<size_t>(q)][static_cast<size_t>(k)], wanted) << i << " " << k;
      }
    }
  }
}

// An unmasked run shows everything, so a wrong plan shows in the mask and not only in Validate.
TEST(ToDenseMask, UnmaskedRunsAreTakenAtTheirWord) {
  Plan p;
  p.runs[1].masked = 0;
  const auto mask = ToDenseMask(p.plan(), p.tiles[0]);
  EXPECT_TRUE(mask[0][193]);  // query 130 sees key 193
  p.runs[0] = {1, 1, 0};
  const auto without = ToDenseMask(p.plan(), p.tiles[0]);
  EXPECT_FALSE(without[0][63]);
  EXPECT_TRUE(without[0][64]);
}

TEST(HeadMap, RanksWithinTheClass) {
  const HeadClass r = HeadClass::kRetrieval, s = HeadClass::kStreaming;
  const HeadMap map({s, r, r, s, s});
  EXPECT_EQ(map.num_heads(), 5);
  EXPECT_EQ(map.count(r), 2);
  EXPECT_EQ(map.count(s), 3);
  const int ranks[] = {0, 0, 1, 1, 2};
  for (int h = 0; h < 5; ++h) {
    EXPECT_EQ(map[h].rank, ranks[h]);
    EXPECT_EQ(map.streaming(h), h == 0 || h > 2);
  }
}

}  // namespace
}  // namespace lserve
