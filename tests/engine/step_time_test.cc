#include "engine/step_time.h"

#include <gtest/gtest.h>

#include <random>

namespace lserve {
namespace {

TEST(StepTime, KnowsNothingAtFirst) {
  StepTime time;
  EXPECT_EQ(time.Seconds({100, 100, 1000}), 0);
  time.Observe({1, 0, 100}, 0.01);
  EXPECT_FALSE(time.knows_prompts());
  EXPECT_NEAR(time.Seconds({1, 0, 100}), 0.01, 1e-4);
}

TEST(StepTime, FindsTheCosts) {
  StepTime time;
  std::mt19937 random(1);
  const auto cost = [](const StepWork& w) { return 0.02 + 3e-4 * w.rows + 2e-9 * w.keys_read; };
  const auto make = [&](bool prompts) {
    StepWork w;
    w.rows = 1 + static_cast<int>(random() % 8);
    if (prompts) w.prompt_rows = static_cast<int>(64 + random() % 448);
    w.rows += w.prompt_rows;
    w.keys_read = w.rows * static_cast<double>(1000 + random() % 30000);
    return w;
  };
  for (int i = 0; i < 200; ++i) {
    const StepWork w = make(i % 3 == 0);
    const double noise = 0.95 + 0.1 * static_cast<double>(random() % 1000) / 1000;
    time.Observe(w, cost(w) * noise);
  }
  for (int i = 0; i < 50; ++i) {
    const StepWork w = make(i % 2);
    EXPECT_NEAR(time.Seconds(w) / cost(w), 1, 0.08);
  }
  EXPECT_NEAR(time.RowSeconds(20000), 3e-4 + 2e-9 * 20000, 4e-5);
}

// A long history costs a chunk of any length the same, and that is not taken for the price of its
// tokens: chunks would become ever shorter.
TEST(StepTime, TellsTheContextFromTheTokens) {
  StepTime time;
  std::mt19937 random(3);
  const auto cost = [](const StepWork& w) {
    return 0.008 + 2e-5 * w.rows + 4e-10 * w.keys_read + 5e-8 * w.context;
  };
  int position = 0;
  for (int i = 0; i < 300; ++i) {
    StepWork w;
    w.rows = 4;
    w.keys_read = 4 * 4096;
    if (i % 10 != 0) {
      w.prompt_rows = 64 + static_cast<int>(random() % 8) * 64;
      w.rows += w.prompt_rows;
      w.keys_read += w.prompt_rows * static_cast<double>(position);
      w.context = position += w.prompt_rows;
    }
    time.Observe(w, cost(w) * (0.98 + 0.04 * static_cast<double>(random() % 1000) / 1000));
  }
  EXPECT_NEAR(time.PromptSeconds(position) / (5e-8 * position), 1, 0.3);
  EXPECT_NEAR(time.RowSeconds(position) / (2e-5 + 4e-10 * position), 1, 0.15);
}

TEST(StepTime, FollowsAChange) {
  StepTime time;
  for (int i = 0; i < 100; ++i) time.Observe({1, 0, 1000}, 0.01);
  for (int i = 0; i < 40; ++i) time.Observe({1, 0, 1000}, 0.03);
  EXPECT_NEAR(time.Seconds({1, 0, 1000}), 0.03, 1e-3);
}

// Whatever is observed: no cost is negative, so more work never looks cheaper.
TEST(StepTime, CostsAreNeverNegative) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    StepTime time;
    for (int i = 0; i < 20; ++i) {
      StepWork w;
      w.rows = 1 + static_cast<int>(random() % 500);
      w.prompt_rows = random() % 2 ? w.rows : 0;
      w.keys_read = static_cast<double>(random() % 10000000);
      time.Observe(w, 1e-4 * static_cast<double>(1 + random() % 10000));
    }
    EXPECT_GE(time.Seconds({}), 0);
    EXPECT_GE(time.RowSeconds(0), 0);
    EXPECT_GE(time.RowSeconds(1e6), time.RowSeconds(0));
  }
}

}  // namespace
}  // namespace lserve
