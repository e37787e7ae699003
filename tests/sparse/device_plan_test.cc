// What backends with plans of their own get from the planner is what Plan gives: visits without
// lists, the decision of a decode row, and the tiles of a prompt alone.
#include <gtest/gtest.h>

#include "sparse/planner.h"
#include "tests/sparse/policy_util.h"

namespace lserve::testing {
namespace {

TEST(DevicePlan, IsWhatPlanSays) {
  std::mt19937_64 random(11);
  const auto pick = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1));
  };
  const std::vector<HeadMap> maps = {HeadMap({kS, kR}), HeadMap({kR, kR}), HeadMap({kS, kS})};
  int selected = 0, due = 0;
  for (int trial = 0; trial < 300; ++trial) {
    SparsityConfig config = SmallConfig();
    config.shared_lists = trial % 3 != 0;
    Planner whole(config, &maps, 2, 64), parts(config, &maps, 2, 64);
    RandomSelector selector(random());
    SelectionState state, own;
    state.prompt_len = own.prompt_len = pick(1, 1500);
    for (int len = state.prompt_len, step_no = 0; step_no < 12; ++step_no) {
      SeqStep step;
      step.slot = 3;
      step.decode = step_no > 0;
      step.pos = step.decode ? len : pick(0, len - 1);
      step.q_len = step.decode ? 1 : len - step.pos;
      step.budget = config.budget;
      step.mode = trial % 5 == 0 ? AttentionMode::kDense : AttentionMode::kLserve;
      step.state = &state;
      whole.Begin({&step, 1});
      SeqStep other = step;
      other.state = &own;
      parts.Begin({&other, 1});
      for (int layer = 0; layer < 3; ++layer) {
        selector.Run(whole.SelectJobs(layer), layer);
        const AttnPlan plan = whole.Plan(layer);
        if (step.decode) continue;
        std::vector<Tile> tiles;
        std::vector<lserve::Run> runs;
        parts.AppendPromptTiles(layer, 0, &tiles, &runs);
        ASSERT_EQ(tiles.size(), plan.tiles.size());
        ASSERT_EQ(runs.size(), plan.runs.size());
        for (size_t i = 0; i < tiles.size(); ++i) {
          EXPECT_EQ(tiles[i].head, plan.tiles[i].head);
          EXPECT_EQ(tiles[i].q_pos, plan.tiles[i].q_pos);
          EXPECT_EQ(tiles[i].run_end, plan.tiles[i].run_end);
          EXPECT_EQ(tiles[i].window_len, plan.tiles[i].window_len);
        }
        for (size_t i = 0; i < runs.size(); ++i) {
          EXPECT_EQ(runs[i].first, plan.runs[i].first);
          EXPECT_EQ(runs[i].count, plan.runs[i].count);
        }
      }
      if (step.decode) {
        const DecodeRow row = parts.decode_row(0);
        parts.CountDecode(0);
        EXPECT_EQ(row.pos, step.pos);
        EXPECT_EQ(row.window_len,
                  step.mode == AttentionMode::kDense ? kNoWindow : config.decode_local);
        if (row.selected) {
          EXPECT_EQ(row.local_begin, state.local_begin);
        }
        selected += row.selected;
        due += row.due;
        ++len;
      }
      EXPECT_EQ(parts.visits(0).pages_read, whole.visits(0).pages_read);
      EXPECT_EQ(parts.visits(0).pages_total, whole.visits(0).pages_total);
      EXPECT_EQ(parts.visits(0).prefill_blocks_read, whole.visits(0).prefill_blocks_read);
      EXPECT_EQ(parts.selector_runs(), whole.selector_runs());
    }
  }
  EXPECT_GT(due, 100);
  EXPECT_GT(selected - due, 100);  // steps that go by an earlier list
}

}  // namespace
}  // namespace lserve::testing
