// When selections are made, what they may choose from, and that nothing visible is lost between two
// of them (A11.4): over all positions in a page, reuse intervals, and tokens a step.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/sparse/policy_util.h"

namespace lserve::testing {
namespace {

const std::vector<HeadMap> kMaps = {HeadMap({kS, kR}), HeadMap({kR, kR})};

// One sequence that decodes step by step.
class Decoding {
 public:
  Decoding(const SparsityConfig& config, int group, int prompt_len, uint64_t seed)
      : config_(config),
        group_(group),
        planner_(config, &kMaps, group, 64),
        selector_(seed),
        n_(prompt_len) {
    state_.prompt_len = prompt_len;
  }

  // Decodes `tokens` at once; true if a selection was made.
  bool Step(int tokens) {
    const SeqStep step{0, 0, tokens, n_, true, AttentionMode::kLserve, config_.budget, &state_};
    n_ += tokens;
    planner_.Begin({&step, 1});
    jobs_.clear();
    for (int layer = 0; layer < 2; ++layer) {
      const auto jobs = planner_.SelectJobs(layer);
      selector_.Run(jobs, layer);
      jobs_.insert(jobs_.end(), jobs.begin(), jobs.end());
      const AttnPlan plan = planner_.Plan(layer);
      const Status status = Validate(plan);
      EXPECT_TRUE(status.ok()) << status.ToString();
      visible_[layer].clear();
      for (const Tile& tile : plan.tiles) {
        if (kMaps[static_cast<size_t>(layer)].streaming(tile.head / group_)) continue;
        std::set<int>& blocks = visible_[layer][tile.head];
        for (const lserve::Run& run : plan.RunsOf(tile))
          for (int b = run.first; b < run.first + run.count; ++b) blocks.insert(b);
      }
    }
    return !jobs_.empty();
  }

  int n() const { return n_; }
  const std::vector<SelectJob>& jobs() const { return jobs_; }
  // Blocks listed for each first query head of a list.
  const std::map<int, std::set<int>>& visible(int layer) const { return visible_[layer]; }
  const SelectionState& state() const { return state_; }
  const Planner& planner() const { return planner_; }

 private:
  const SparsityConfig config_;
  const int group_;
  SelectionState state_;
  Planner planner_;
  RandomSelector selector_;
  int n_;
  std::vector<SelectJob> jobs_;
  std::map<int, std::set<int>> visible_[2];
};

SparsityConfig Config(int interval, int local_pages = 2) {
  SparsityConfig config = SmallConfig();
  config.reuse_interval = interval;
  config.selector_local_pages = local_pages;
  config.budget = 64 * (1 + local_pages + 3);
  return config;
}

TEST(Selection, PhaseCountsGeneratedTokens) {
  for (int interval : {1, 2, 4, 5, 16}) {
    for (int prompt : {1000, 1001, 1003, 1023}) {
      Decoding d(Config(interval), 2, prompt, 1);
      for (int step = 0; step < 40; ++step) {
        const bool selected = d.Step(1);
        EXPECT_EQ(selected, step == 0 || (d.n() - prompt) % interval == 0)
            << interval << " " << d.n();
      }
    }
  }
}

// A step of several tokens makes a selection when it reaches or passes a multiple of C.
TEST(Selection, PhaseOfStepsOfSeveralTokens) {
  for (int interval : {2, 4, 7})
    for (int tokens : {2, 3, 5, 9}) {
      Decoding d(Config(interval), 2, 1000, 1);
      for (int step = 0; step < 20; ++step) {
        const int before = d.n() - 1000;
        EXPECT_EQ(d.Step(tokens), step == 0 || (before + tokens) / interval > before / interval);
      }
    }
}

TEST(Selection, NothingVisibleIsLostUntilTheNext) {
  for (int interval = 1; interval <= 16; ++interval) {
    for (int tokens : {1, 2, 5}) {
      for (int start = 1000; start < 1064; ++start) {
        const int local_pages = 1 + start % 3;
        const SparsityConfig config = Config(interval, local_pages);
        Decoding d(config, 2, start, static_cast<uint64_t>(start));
        std::map<int, std::set<int>> at_run[2];
        int run_block = 0;
        for (int step = 0; step < 2 + 2 * interval / tokens; ++step) {
          const int pos = d.n();
          if (d.Step(tokens)) run_block = BlockOf(pos);
          const int newest = BlockOf(d.n() - 1);
          const int local_capacity =
              local_pages + (interval + tokens + kBlockTokens - 1) / kBlockTokens;
          for (int layer : {0, 1}) {
            if (!d.jobs().empty()) at_run[layer] = d.visible(layer);
            for (const auto& [head, blocks] : d.visible(layer)) {
              for (int b : at_run[layer].at(head))
                ASSERT_TRUE(blocks.count(b))
                    << "block " << b << " lost at n " << d.n() << ", C " << interval;
              // All that was decoded since, too, and the pages before the one open at the run.
              for (int b = std::max(0, run_block - (local_pages - 1)); b <= newest; ++b)
                ASSERT_TRUE(blocks.count(b)) << "local block " << b << " at n " << d.n();
              ASSERT_LE(static_cast<int>(blocks.size()), 1 + 3 + local_capacity);
            }
          }
        }
      }
    }
  }
}

TEST(Selection, JobsNameClosedPagesAndTheBudgetIsSpent) {
  for (bool shared : {true, false}) {
    for (int remainder : {0, 1, 2, 63}) {
      SparsityConfig config = Config(4);
      config.shared_lists = shared;
      const int group = 3, prompt = 1280 + remainder;
      Decoding d(config, group, prompt, 5);
      ASSERT_TRUE(d.Step(1));
      const int heads = shared ? group : 1;
      std::multiset<int> lists;  // first query heads: KV heads 1, 0 and 1 retrieve
      for (const SelectJob& job : d.jobs()) {
        lists.insert(job.head);
        EXPECT_EQ(job.heads, heads);
        EXPECT_EQ(job.seq, 0);
        EXPECT_EQ(job.row, 0);
        EXPECT_EQ(job.first_block, 1);
        EXPECT_LE(job.end_block * kBlockTokens, prompt) << "an open page has no final statistics";
        EXPECT_EQ(job.end_block, BlockOf(prompt) - 1) << "two local pages, the open one included";
        EXPECT_EQ(job.k, 3);
        EXPECT_EQ(*job.count, 3);
      }
      EXPECT_EQ(lists, shared ? (std::multiset<int>{0, 3, 3})
                              : (std::multiset<int>{0, 1, 2, 3, 3, 4, 4, 5, 5}));
      for (int layer : {0, 1})
        for (const auto& [head, blocks] : d.visible(layer))
          EXPECT_EQ(blocks.size(), 6u) << "sink, three chosen, two local";
      EXPECT_EQ(d.planner().selector_runs(), 2) << "once a layer";
    }
  }
}

// Each list is its own: a query head reads what was chosen for it.
TEST(Selection, ListsAreNotMixedUp) {
  SparsityConfig config = Config(4);
  config.shared_lists = false;
  Decoding d(config, 4, 3000, 6);
  ASSERT_TRUE(d.Step(1));
  std::set<std::set<int>> different;
  for (int layer : {0, 1})
    for (const auto& [head, blocks] : d.visible(layer)) different.insert(blocks);
  EXPECT_GT(different.size(), 8u) << "12 random lists out of 45 blocks";
  const auto before = d.visible(1);
  ASSERT_FALSE(d.Step(1));
  EXPECT_EQ(d.visible(1), before) << "reused";
}

// The state goes with the sequence: another planner (after preemption) continues with it.
TEST(Selection, StateMovesWithTheSequence) {
  const SparsityConfig config = Config(8);
  Planner first(config, &kMaps, 2, 64), second(config, &kMaps, 2, 64);
  RandomSelector selector(7);
  SelectionState state;
  state.prompt_len = 2000;
  SeqStep step{0, 0, 1, 2000, true, AttentionMode::kLserve, config.budget, &state};
  PlanAndExpect(&first, {&step, 1}, config, kMaps, 2, &selector);
  SelectionState moved = state;
  step.state = &moved;
  step.pos = 2001;
  second.Begin({&step, 1});
  EXPECT_TRUE(second.SelectJobs(0).empty()) << "no selection is due";
  ExpectDefinition(second.Plan(0), {&step, 1}, {config, kMaps[0], 0, 2, selector});
}

TEST(Selection, DenseBelowTheCrossover) {
  SparsityConfig config = Config(4);
  config.dense_below = 1500;
  Decoding d(config, 2, 1497, 8);
  for (int n = 1498; n <= 1500; ++n) {
    EXPECT_FALSE(d.Step(1));
    EXPECT_EQ(d.visible(1).at(0).size(), static_cast<size_t>(BlockOf(n - 1) + 1));
  }
  EXPECT_TRUE(d.Step(1)) << "the first selection, whatever the phase";
  EXPECT_EQ(d.visible(1).at(0).size(), 6u);
}

}  // namespace
}  // namespace lserve::testing
