// Seam 1: the mask of every plan equals the mask written from the definition. No kernel involved,
// and nothing here depends on the head dimension.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "tests/sparse/policy_util.h"

namespace lserve::testing {
namespace {

constexpr int kGroups[] = {1, 3, 4, 6, 7, 8};
const std::vector<HeadMap> kMixed = {HeadMap({kR, kS}), HeadMap({kS, kR}), HeadMap({kS, kS})};

// Lengths at page borders: whole prompts, chunks against history, single tokens, a few at a time.
TEST(PlannerMask, LengthsAroundPageBorders) {
  const SparsityConfig config = SmallConfig();
  ASSERT_TRUE(Planner::Check(config).ok());
  for (int group : kGroups) {
    Planner planner(config, &kMixed, group, 64);
    RandomSelector selector(1);
    for (int blocks : {0, 1, 4, 7}) {
      for (int remainder : {0, 1, 2, 63}) {
        const int n = 64 * blocks + remainder;
        for (auto [q_len, decode] :
             {std::pair{1, true}, {1, false}, {3, true}, {65, false}, {100, false}, {n, false}}) {
          if (q_len > n || q_len == 0 || (q_len > 100 && group != 3)) continue;
          for (AttentionMode mode : {AttentionMode::kDense, AttentionMode::kLserve}) {
            SelectionState state;
            state.prompt_len = n - 1;
            const SeqStep step{2, 0, q_len, n - q_len, decode, mode, config.budget, &state};
            PlanAndExpect(&planner, {&step, 1}, config, kMixed, group, &selector);
            ASSERT_FALSE(HasFatalFailure()) << "n " << n << ", " << q_len << " queries, group "
                                            << group << (decode ? " decode" : " prefill");
          }
        }
      }
    }
  }
}

// Window edges anywhere in a page. Decode windows are whole pages (Planner::Check).
TEST(PlannerMask, WindowEdges) {
  const std::vector<HeadMap> maps = {HeadMap({kS})};
  for (int sink : {0, 1, 63, 64, 100, 129}) {
    for (int local : {64, 65, 100, 127, 128, 200}) {
      for (int tile : {16, 24, 64}) {
        SparsityConfig config = SmallConfig();
        config.prefill_sink = sink;
        config.prefill_local = local;
        config.decode_sink = sink / 64 * 64;
        config.decode_local = local / 64 * 64;
        ASSERT_TRUE(Planner::Check(config).ok());
        Planner planner(config, &maps, 1, tile);
        RandomSelector selector(2);
        for (int n : {64, 130, 319, 400}) {
          SelectionState state;
          for (auto [q_len, decode] : {std::pair{1, true}, {37, false}, {n, false}}) {
            if (q_len > n) continue;
            const SeqStep step{
                0, 0, q_len, n - q_len, decode, AttentionMode::kLserve, config.budget, &state};
            PlanAndExpect(&planner, {&step, 1}, config, maps, 1, &selector);
            ASSERT_FALSE(HasFatalFailure()) << "sink " << sink << " local " << local << " n " << n;
          }
        }
      }
    }
  }
}

// Prompts and answers of unequal lengths in one step, random settings, lists shared and not.
TEST(PlannerMask, RandomBatches) {
  std::mt19937_64 random(3);
  const auto pick = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1));
  };
  int64_t selections = 0;
  for (int trial = 0; trial < 120; ++trial) {
    SparsityConfig config;
    config.decode_sink = 64 * pick(0, 2);
    config.prefill_sink = config.decode_sink + pick(0, 70);
    config.decode_local = 64 * pick(1, 3);
    config.prefill_local = config.decode_local + pick(0, 150);
    config.selector_sink_pages = pick(0, 2);
    config.selector_local_pages = pick(1, 3);
    config.budget = 64 * (config.selector_sink_pages + config.selector_local_pages + pick(1, 3));
    config.dense_below = pick(0, 1) * pick(0, 500);
    config.reuse_interval = pick(1, 6);
    config.shared_lists = trial % 3 != 0;
    ASSERT_TRUE(Planner::Check(config).ok()) << Planner::Check(config).ToString();
    const int group = kGroups[trial % 6], tile = pick(1, 3) == 1 ? 16 : 64;
    Planner planner(config, &kMixed, group, tile);
    RandomSelector selector(random());

    const int n = pick(1, 5);
    std::vector<SelectionState> states(static_cast<size_t>(n));
    std::vector<int> len(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) {
      len[static_cast<size_t>(i)] = pick(0, 600);
      states[static_cast<size_t>(i)].prompt_len =
          std::max(0, len[static_cast<size_t>(i)] - pick(0, 9));
    }
    for (int round = 0; round < 4; ++round) {
      std::vector<SeqStep> steps;
      int row = 0;
      for (int i = 0; i < n; ++i) {
        if (pick(0, 4) == 0) continue;  // not every sequence is in every step
        const size_t s = static_cast<size_t>(i);
        const bool decode = len[s] >= states[s].prompt_len && pick(0, 3) > 0;
        SeqStep step;
        step.slot = 10 + i;
        step.q_begin = row;
        step.q_len = decode ? pick(1, 3) : pick(1, 90);
        step.pos = len[s];
        step.decode = decode;
        step.mode = i % 4 == 3 ? AttentionMode::kDense : AttentionMode::kLserve;
        step.budget = config.budget + (i % 2 ? 64 : 0);
        step.state = &states[s];
        if (!decode) states[s].prompt_len = std::max(states[s].prompt_len, step.pos + step.q_len);
        len[s] += step.q_len;
        row += step.q_len;
        steps.push_back(step);
      }
      PlanAndExpect(&planner, steps, config, kMixed, group, &selector);
      ASSERT_FALSE(HasFatalFailure()) << "trial " << trial;
    }
    selections += planner.selector_runs();
  }
  EXPECT_GT(selections, 200) << "batches that never select test little";
}

// A budget that covers the context and heads that all retrieve: the very same plan as dense.
TEST(PlannerMask, BudgetThatCoversTheContextIsDense) {
  SparsityConfig config = SmallConfig();
  const std::vector<HeadMap> maps = {HeadMap({kR, kR})};
  Planner planner(config, &maps, 3, 64);
  for (int n : {1, 63, 64, 65, 200, 255, 256}) {
    for (bool decode : {true, false}) {
      std::vector<Tile> tiles[2];
      std::vector<lserve::Run> runs[2];
      for (AttentionMode mode : {AttentionMode::kDense, AttentionMode::kLserve}) {
        SelectionState state;
        state.prompt_len = n - 1;
        const SeqStep step{0, 0, 1, n - 1, decode, mode, config.budget, &state};
        planner.Begin({&step, 1});
        EXPECT_TRUE(planner.SelectJobs(0).empty()) << "256 tokens are 4 pages";
        const AttnPlan plan = planner.Plan(0);
        tiles[static_cast<int>(mode)] = {plan.tiles.begin(), plan.tiles.end()};
        runs[static_cast<int>(mode)] = {plan.runs.begin(), plan.runs.end()};
      }
      ASSERT_EQ(tiles[0].size(), tiles[1].size());
      ASSERT_EQ(runs[0].size(), runs[1].size());
      EXPECT_EQ(0, memcmp(tiles[0].data(), tiles[1].data(), tiles[0].size() * sizeof(Tile)));
      EXPECT_EQ(0, memcmp(runs[0].data(), runs[1].data(), runs[0].size() * sizeof(lserve::Run)));
    }
  }
  // One token more: 5 pages, and selection begins.
  SelectionState state;
  state.prompt_len = 256;
  const SeqStep step{0, 0, 1, 256, true, AttentionMode::kLserve, config.budget, &state};
  planner.Begin({&step, 1});
  EXPECT_EQ(planner.SelectJobs(0).size(), 2u);
}

// Tiles of a prompt lie at absolute positions, so that chunks do not change how a query is
// computed.
TEST(PlannerMask, TilesDoNotDependOnChunks) {
  const SparsityConfig config = SmallConfig();
  const std::vector<HeadMap> maps = {HeadMap({kR, kS})};
  Planner planner(config, &maps, 2, 24);
  const auto ends = [&](int begin, int end) {
    const SeqStep step{0,      0, end - begin, begin, false, AttentionMode::kLserve, config.budget,
                       nullptr};
    planner.Begin({&step, 1});
    std::set<int> last;
    for (const Tile& tile : planner.Plan(0).tiles) last.insert(tile.q_pos + tile.q_len);
    return last;
  };
  const std::set<int> whole = ends(0, 300);
  for (int cut : {1, 23, 24, 25, 100, 299}) {
    std::set<int> both = ends(0, cut);
    both.merge(ends(cut, 300));
    if (cut % 24) both.erase(cut);
    EXPECT_EQ(both, whole) << cut;
  }
}

}  // namespace
}  // namespace lserve::testing
