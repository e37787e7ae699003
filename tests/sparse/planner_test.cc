// The planner's settings, its promises about released pages, and what it counts.
#include "sparse/planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "tests/sparse/policy_util.h"

namespace lserve::testing {
namespace {

constexpr int kHuge = std::numeric_limits<int>::max();

TEST(PlannerCheck, NamesTheSetting) {
  EXPECT_TRUE(Planner::Check({}).ok()) << Planner::Check({}).ToString();
  EXPECT_TRUE(Planner::Check(SmallConfig()).ok());
  const std::pair<std::function<void(SparsityConfig*)>, const char*> bad[] = {
      {[](SparsityConfig* c) { c->decode_sink = 100; }, "--decode-sink: 100"},
      {[](SparsityConfig* c) { c->decode_sink = -64; }, "--decode-sink: -64"},
      {[](SparsityConfig* c) { c->decode_local = 0; }, "--decode-local: 0"},
      {[](SparsityConfig* c) { c->decode_local = 65; }, "--decode-local: 65"},
      {[](SparsityConfig* c) { c->budget = 4000; }, "--budget: 4000"},
      {[](SparsityConfig* c) { c->budget = 320; }, "--budget: 320"},
      {[](SparsityConfig* c) { c->budget = 0; }, "--budget: 0"},
      {[](SparsityConfig* c) { c->prefill_sink = 64; }, "--prefill-sink: 64"},
      {[](SparsityConfig* c) { c->prefill_local = 255; }, "--prefill-local: 255"},
      {[](SparsityConfig* c) { c->logical_page = 8; }, "--logical-page: 8"},
      {[](SparsityConfig* c) { c->reuse_interval = 0; }, "--reuse-interval: 0"},
      {[](SparsityConfig* c) { c->selector_sink_pages = -1; }, "--selector-sink-pages: -1"},
      {[](SparsityConfig* c) { c->selector_local_pages = 0; }, "--selector-local-pages: 0"},
      {[](SparsityConfig* c) { c->dense_below = -1; }, "--dense-below: -1"},
      {[](SparsityConfig* c) { c->static_sparsity = 1.5; }, "--static-sparsity: 1.5"},
      {[](SparsityConfig* c) { c->static_sparsity = std::nan(""); }, "--static-sparsity: nan"},
      {[](SparsityConfig* c) { c->selector_sink_pages = kHuge; },
       "--selector-sink-pages: 2147483647"},
      {[](SparsityConfig* c) { c->selector_local_pages = kHuge; },
       "--selector-local-pages: 2147483647"},
      {[](SparsityConfig* c) { c->prefill_sink = kHuge; }, "--prefill-sink: 2147483647"},
      {[](SparsityConfig* c) { c->prefill_local = kHuge; }, "--prefill-local: 2147483647"},
      {[](SparsityConfig* c) { c->budget = kHuge / 64 * 64; }, "--budget: 2147483584"},
      {[](SparsityConfig* c) { c->reuse_interval = kHuge; }, "--reuse-interval: 2147483647"},
  };
  for (const auto& [apply, message] : bad) {
    SparsityConfig config;
    apply(&config);
    const Status status = Planner::Check(config);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << message;
    EXPECT_NE(status.message().find(message), std::string::npos) << status.ToString();
  }
  SparsityConfig smallest;
  smallest.budget = 384;
  EXPECT_TRUE(Planner::Check(smallest).ok()) << "one page to select";
}

// As the engine does after each step: release what FirstWindowBlock allows. No later plan may list
// a released block, and no more is kept than the window needs.
TEST(Planner, PlansNeverListReleasedBlocks) {
  std::mt19937_64 random(4);
  const auto pick = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1));
  };
  const std::vector<HeadMap> maps = {HeadMap({kS, kR})};
  int64_t released_blocks = 0;
  for (int trial = 0; trial < 200; ++trial) {
    SparsityConfig config = SmallConfig();
    config.decode_sink = 64 * pick(0, 2);
    config.prefill_sink = config.decode_sink + pick(0, 100);
    config.decode_local = 64 * pick(1, 4);
    config.prefill_local = config.decode_local + pick(0, 300);
    Planner planner(config, &maps, 2, trial % 2 ? 64 : 24);
    RandomSelector selector(random());
    SelectionState state;
    state.prompt_len = pick(1, 1500);
    const int total = state.prompt_len + 150, sinks = planner.SinkBlocks();
    int released = sinks;  // [sinks, released)
    for (int len = 0; len < total;) {
      const bool decode = len >= state.prompt_len;
      const int tokens = decode ? pick(1, 3) : std::min(pick(1, 400), state.prompt_len - len);
      const SeqStep step{0, 0, tokens, len, decode, AttentionMode::kLserve, config.budget, &state};
      planner.Begin({&step, 1});
      selector.Run(planner.SelectJobs(0), 0);
      const AttnPlan plan = planner.Plan(0);
      for (const Tile& tile : plan.tiles) {
        if (!maps[0].streaming(tile.head / 2)) continue;
        for (const lserve::Run& run : plan.RunsOf(tile))
          for (int b = run.first; b < run.first + run.count; ++b)
            ASSERT_TRUE(b < sinks || b >= released)
                << "block " << b << " was released; length " << len << ", trial " << trial;
      }
      len += tokens;
      const bool prefill = len < state.prompt_len;
      const int window = prefill ? config.prefill_local : config.decode_local;
      const int first = planner.FirstWindowBlock(len, prefill);
      ASSERT_GE(first, released > sinks ? released : 0) << "windows move forward only";
      ASSERT_LE(first, BlockOf(len - 1)) << "the newest page is always kept";
      // The next query, at `len`, sees keys from len - window + 1 on.
      ASSERT_EQ(first, BlockOf(std::max(0, len - window + 1)));
      released_blocks += std::max(0, first - released);
      released = std::max(released, first);
    }
  }
  EXPECT_GT(released_blocks, 1000);
}

// Counted by hand: a decode row of 101 pages with 16 pages of budget, and a chunk of two tiles.
TEST(Planner, CountsVisits) {
  SparsityConfig config;
  config.budget = 1024;
  config.dense_below = 0;
  config.prefill_sink = 128;
  config.prefill_local = 256;
  const std::vector<HeadMap> maps = {HeadMap({kR, kS}), HeadMap({kS, kS})};
  for (bool shared : {true, false}) {
    config.shared_lists = shared;
    Planner planner(config, &maps, 3, 64);
    RandomSelector selector(1);
    SelectionState states[3];
    for (SelectionState& state : states) state.prompt_len = 6400;
    const SeqStep steps[] = {
        {0, 0, 1, 6400, true, AttentionMode::kLserve, 1024, &states[0]},
        {1, 1, 128, 640, false, AttentionMode::kLserve, 1024, &states[1]},
        {2, 129, 1, 6400, true, AttentionMode::kDense, 1024, &states[2]},
    };
    planner.Begin(steps);
    for (int layer : {0, 1}) {
      selector.Run(planner.SelectJobs(layer), layer);
      planner.Plan(layer);
    }
    // Streaming: 2 sink pages and keys 6145..6400, pages 96..100.
    const VisitCount& decode = planner.visits(0);
    EXPECT_EQ(decode.pages_total, 4 * 101);
    EXPECT_EQ(decode.pages_read, 16 + 3 * 7);
    EXPECT_EQ(decode.prefill_blocks_total, 0);
    // Tiles at 640 and 704: 11 and 12 blocks; streaming 2 sinks and 385.. or 449..:
    // blocks 6..10, 7..11.
    const VisitCount& prefill = planner.visits(1);
    EXPECT_EQ(prefill.prefill_blocks_total, 4 * (11 + 12));
    EXPECT_EQ(prefill.prefill_blocks_read, (11 + 12) + 3 * (7 + 7));
    EXPECT_EQ(prefill.pages_total, 0);
    const VisitCount& dense = planner.visits(2);
    EXPECT_EQ(dense.pages_total, 4 * 101);
    EXPECT_EQ(dense.pages_read, 4 * 101);
    EXPECT_EQ(planner.selector_runs(), 1) << "layer 1 has no retrieval head";
    planner.Begin({});
    EXPECT_TRUE(planner.Plan(0).tiles.empty());
  }
}

}  // namespace
}  // namespace lserve::testing
