// Audits of selection: where the samples lie, what the reference plan shows, and the arithmetic.
#include "sparse/audit.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/sparse/policy_util.h"

namespace lserve::testing {
namespace {

TEST(Audit, OneLayerStepInEachRun) {
  for (int interval : {1, 2, 7, 64}) {
    for (int layers : {1, 30, 32}) {
      std::map<int, int> by_run;
      std::set<int> seen_layers, phases;  // phases: of a reuse interval of 4
      const int tokens = 64 * 64;
      for (int token = 1; token <= tokens; ++token) {
        for (int layer = 0; layer < layers; ++layer) {
          if (!IsAudited(interval, layers, layer, token)) continue;
          ++by_run[((token - 1) * layers + layer) / interval];
          seen_layers.insert(layer);
          phases.insert(token % 4);
        }
      }
      for (int run = 0; run < tokens * layers / interval; ++run)  // but for a last, cut one
        ASSERT_EQ(by_run[run], 1) << "run " << run << " of " << interval;
      EXPECT_EQ(static_cast<int>(seen_layers.size()), layers) << "of every " << interval;
      EXPECT_EQ(phases.size(), 4u);
    }
  }
  EXPECT_FALSE(IsAudited(0, 4, 0, 1));
}

TEST(Audit, MissedMass) {
  MissedMass m;
  m.AddHead(std::log(3.0f), std::log(4.0f));
  m.AddHead(2.0f, 2.0f);
  m.AddHead(2.0f, std::nextafter(2.0f, 1.0f));  // rounding
  EXPECT_EQ(m.heads, 3);
  EXPECT_NEAR(m.sum, 0.25, 1e-6);
  EXPECT_NEAR(m.max, 0.25, 1e-6);
  MissedMass other;
  other.AddHead(-INFINITY, 1.0f);  // nothing was read
  other.layer_steps = 2;
  m.Add(other);
  EXPECT_EQ(m.max, 1);
  EXPECT_NEAR(m.mean(), 1.25 / 4, 1e-6);
  EXPECT_EQ(m.layer_steps, 2);
  EXPECT_EQ(MissedMass().mean(), 0);
}

// A batch in which some steps are audited: two sequences that select, and a dense one, a short one,
// a prompt and one that nobody audits.
TEST(Audit, PlanShowsRetrievalHeadsOfAuditedStepsEverything) {
  const std::vector<HeadMap> maps = {HeadMap({kS, kR, kR}), HeadMap({kS, kS, kS})};
  const int group = 2;
  for (bool shared : {true, false}) {
    SparsityConfig config = SmallConfig();
    config.shared_lists = shared;
    config.dense_below = 500;
    Planner planner(config, &maps, group, 64);
    RandomSelector selector(3);
    SelectionState states[6];
    const AttentionMode sparse = AttentionMode::kLserve, dense = AttentionMode::kDense;
    std::vector<SeqStep> steps;
    const auto add = [&](int q_len, int pos, bool decode, AttentionMode mode, int audit) {
      SeqStep step;
      step.slot = static_cast<int>(steps.size());
      step.q_begin = steps.empty() ? 0 : steps.back().q_begin + steps.back().q_len;
      step.q_len = q_len;
      step.pos = pos;
      step.decode = decode;
      step.mode = mode;
      step.budget = 256;
      step.state = &states[steps.size()];
      step.audit = audit;
      steps.push_back(step);
    };
    add(1, 1000, true, sparse, 1);
    add(3, 1278, true, sparse, 1);  // across a page border
    add(1, 1000, true, dense, 1);
    add(1, 400, true, sparse, 1);
    add(70, 930, false, sparse, 1);
    add(1, 1000, true, sparse, 0);
    planner.Begin(steps);
    selector.Run(planner.SelectJobs(0), 0);
    const AttnPlan plan = planner.Plan(0), audit = planner.AuditPlan(0);
    const Status status = Validate(audit);
    ASSERT_TRUE(status.ok()) << status.ToString();
    std::set<std::pair<int, int>> rows;  // (row, query head)
    for (const Tile& tile : audit.tiles) {
      const SeqStep& step = steps[static_cast<size_t>(tile.seq)];
      EXPECT_EQ(tile.kv_len, step.pos + step.q_len);
      const auto mask = ToDenseMask(audit, tile);
      for (int q = 0; q < tile.q_len; ++q) {
        const int pos = tile.q_pos + q;
        EXPECT_EQ(pos, step.pos + tile.q_begin + q - step.q_begin);
        for (int k = 0; k < tile.kv_len; ++k)
          ASSERT_EQ(mask[static_cast<size_t>(q)][static_cast<size_t>(k)], k <= pos);
        for (int h = 0; h < audit.shape.heads_per_tile; ++h)
          EXPECT_TRUE(rows.insert({tile.q_begin + q, tile.head + h}).second);
      }
    }
    std::set<std::pair<int, int>> wanted;
    for (int row : {0, 1, 2, 3})
      for (int head : {2, 3, 4, 5}) wanted.insert({row, head});
    EXPECT_EQ(rows, wanted);
    EXPECT_TRUE(planner.AuditPlan(1).tiles.empty()) << "a layer without retrieval heads";
    // The plan made before is still what it was.
    ExpectDefinition(plan, steps, {config, maps[0], 0, group, selector});

    // Half is missed in the first step, nothing in the rows of the second but one head.
    std::vector<float> read(77 * 6, 100), all(77 * 6, 0);
    for (const auto& [row, head] : wanted) {
      const size_t at = static_cast<size_t>(row * 6 + head);
      read[at] = row == 0 || (row == 2 && head == 3) ? std::log(0.5f) : 0.0f;
    }
    for (int i = 0; i < static_cast<int>(steps.size()); ++i) {
      EXPECT_EQ(planner.Audits(0, i), i < 2) << i;
      EXPECT_FALSE(planner.Audits(1, i)) << i;
      const int first = steps[static_cast<size_t>(i)].q_begin * 6;
      if (planner.Audits(0, i)) planner.RecordAudit(0, i, read.data() + first, all.data() + first);
    }
    EXPECT_EQ(planner.missed(0).layer_steps, 1);
    EXPECT_EQ(planner.missed(0).heads, 4);
    EXPECT_NEAR(planner.missed(0).mean(), 0.5, 1e-6);
    EXPECT_EQ(planner.missed(1).heads, 12);
    EXPECT_NEAR(planner.missed(1).sum, 0.5, 1e-6);
    EXPECT_NEAR(planner.missed(1).max, 0.5, 1e-6);
    for (int i : {2, 3, 4, 5}) EXPECT_EQ(planner.missed(i).heads, 0) << i;
    planner.Begin(steps);
    EXPECT_EQ(planner.missed(0).heads, 0) << "of this step only";
  }
}

}  // namespace
}  // namespace lserve::testing
