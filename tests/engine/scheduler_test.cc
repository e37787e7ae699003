#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace lserve {
namespace {

Candidate Decoding(uint64_t order) {
  Candidate c;
  c.order = order;
  c.running = true;
  return c;
}
Candidate Prompt(uint64_t order, int remaining, bool running = true) {
  Candidate c;
  c.order = order;
  c.running = running;
  c.remaining_prompt = remaining;
  c.pages_needed[0] = c.pages_needed[1] = (remaining + 63) / 64;
  return c;
}
StepBudget Budget(int tokens, int slots = 8, int64_t pages = 1000) {
  StepBudget b;
  b.tokens = tokens;
  b.free_slots = slots;
  b.free_pages[0] = b.free_pages[1] = pages;
  return b;
}

TEST(Scheduler, DecodesAlwaysGetTheirToken) {
  std::vector<Candidate> all = {Prompt(0, 100000)};
  for (uint64_t i = 1; i <= 10; ++i) all.push_back(Decoding(i));
  const StepDecision d = Schedule(all, Budget(512));
  for (size_t i = 1; i <= 10; ++i) EXPECT_EQ(d.tokens[i], 1);
  EXPECT_EQ(d.tokens[0], 448) << "the rest of 502, whole blocks";
}

TEST(Scheduler, AShortPromptDoesNotWaitForALongOne) {
  const StepDecision d = Schedule({Prompt(0, 100000), Prompt(1, 300, false)}, Budget(512, 8, 5000));
  EXPECT_EQ(d.tokens[1], 300);
  EXPECT_GE(d.tokens[0], 128) << "and the long one moves on";
  EXPECT_LE(d.tokens[0] + d.tokens[1], 512);
}

TEST(Scheduler, ALongPromptEndsUnderAStreamOfShortOnes) {
  int remaining = 10000, steps = 0;
  for (; remaining > 0 && steps < 1000; ++steps)
    remaining -=
        Schedule({Prompt(0, remaining), Prompt(1, 400), Prompt(2, 400)}, Budget(512)).tokens[0];
  EXPECT_LE(steps, 90);
}

TEST(Scheduler, TimeLimitsPromptsNotAnswers) {
  std::vector<Candidate> all = {Prompt(0, 100000), Decoding(1)};
  all[0].token_seconds = 1e-4;
  StepBudget budget = Budget(2048);
  EXPECT_EQ(Schedule(all, budget).tokens[0], 1984) << "no limit";
  budget.seconds = 0.0512;
  EXPECT_EQ(Schedule(all, budget).tokens[0], 512);
  budget.seconds = 0;
  const StepDecision d = Schedule(all, budget);
  EXPECT_EQ(d.tokens[0], kLeastChunk) << "prompts never stand still";
  EXPECT_EQ(d.tokens[1], 1);
}

TEST(Scheduler, TimeIsSharedByCost) {
  // The tokens of the older prompt cost four times as much.
  std::vector<Candidate> all = {Prompt(0, 100000), Prompt(1, 3000)};
  all[0].token_seconds = 4e-4;
  all[1].token_seconds = 1e-4;
  StepBudget budget = Budget(4096);
  budget.seconds = 0.2048;
  const StepDecision d = Schedule(all, budget);
  EXPECT_EQ(d.tokens[0], 128);
  EXPECT_EQ(d.tokens[1], 1536);
}

// What a chunk costs however short it is comes off the time before its tokens do.
TEST(Scheduler, TakingPartCostsTime) {
  std::vector<Candidate> all = {Prompt(0, 100000), Decoding(1)};
  all[0].token_seconds = 1e-4;
  all[0].start_seconds = 6e-3;
  StepBudget budget = Budget(2048);
  budget.seconds = 0.032;
  EXPECT_EQ(Schedule(all, budget).tokens[0], 256) << "26 ms of 32";
  budget.seconds = 0.005;
  EXPECT_EQ(Schedule(all, budget).tokens[0], kLeastChunk) << "some tokens however late the step is";
  // Beside a shorter one: a quarter of the time would not even do for the beginning.
  all.push_back(Prompt(2, 50));
  all[2].token_seconds = 1e-4;
  budget.seconds = 0.020;
  EXPECT_EQ(Schedule(all, budget).tokens, (std::vector<int>{64, 1, 50}));
}

TEST(Scheduler, RowsFillTiles) {
  StepBudget budget = Budget(2048);
  budget.unit = 128;
  budget.seconds = 0.1;
  std::vector<Candidate> all = {Prompt(0, 100000), Decoding(1), Decoding(2)};
  all[0].token_seconds = 1e-4;
  EXPECT_EQ(Schedule(all, budget).tokens[0], 896);
  budget.fit_rows = true;
  EXPECT_EQ(Schedule(all, budget).tokens[0], 894) << "and two of answers";
  all[0].remaining_prompt = 900;
  EXPECT_EQ(Schedule(all, budget).tokens[0], 900) << "the end of a prompt is not put off";
  budget.seconds = 0.01;
  EXPECT_EQ(Schedule(all, budget).tokens[0], 64) << "too little for a tile";
}

TEST(Scheduler, AgeCountsAsWorkDone) {
  std::vector<Candidate> all = {Prompt(0, 50000), Prompt(1, 2000), Prompt(2, 300)};
  EXPECT_EQ(Schedule(all, Budget(400)).tokens[2], 300);
  all[1].age = 2000 / kAgeing;
  EXPECT_GE(Schedule(all, Budget(400)).tokens[1], 256);
  EXPECT_LT(Schedule(all, Budget(400)).tokens[2], 64) << "what rounding to blocks left";
}

TEST(Scheduler, PriorityComesFirst) {
  std::vector<Candidate> all = {Prompt(0, 1000, false), Prompt(1, 1000, false)};
  all[1].priority = -1;
  const StepDecision d = Schedule(all, Budget(256, 1));
  EXPECT_EQ(d.tokens[0], 0);
  EXPECT_EQ(d.tokens[1], 256);
}

TEST(Scheduler, NoSlotNoBeginning) {
  const StepDecision d = Schedule({Prompt(0, 10, false), Prompt(1, 10, false)}, Budget(512, 1));
  EXPECT_EQ(d.tokens[0], 10);
  EXPECT_EQ(d.tokens[1], 0);
  EXPECT_EQ(d.blocked, -1) << "slots are not pages";
}

TEST(Scheduler, BeginsOnlyWhatFitsBesideRunningPrompts) {
  // 20 pages free, 15 of them promised to the running prompt.
  const std::vector<Candidate> all = {Prompt(0, 15 * 64), Prompt(1, 6 * 64, false),
                                      Prompt(2, 5 * 64, false)};
  const StepDecision d = Schedule(all, Budget(4096, 8, 20));
  EXPECT_EQ(d.blocked, 1);
  EXPECT_EQ(d.tokens[1], 0);
  EXPECT_EQ(d.tokens[2], 5 * 64) << "overtakes, for now";
}

TEST(Scheduler, OvertakingEnds) {
  std::vector<Candidate> all = {Prompt(0, 21 * 64, false), Prompt(1, 64, false)};
  all[0].blocked_steps = kPatience;
  const StepDecision d = Schedule(all, Budget(512, 8, 20));
  EXPECT_EQ(d.blocked, 0);
  EXPECT_EQ(d.tokens[1], 0);
}

TEST(Scheduler, StreamingPoolCountsToo) {
  std::vector<Candidate> all = {Prompt(0, 64, false)};
  all[0].pages_needed[1] = 5;
  StepBudget budget = Budget(512);
  budget.free_pages[1] = 4;
  EXPECT_EQ(Schedule(all, budget).blocked, 0);
}

TEST(Scheduler, VictimIsTheYoungestOfTheLeastImportant) {
  std::vector<Candidate> all = {Decoding(3), Decoding(7), Decoding(5), Prompt(9, 10, false)};
  EXPECT_EQ(ChooseVictim(all), 1);
  all[0].priority = 1;
  EXPECT_EQ(ChooseVictim(all), 0);
  EXPECT_EQ(ChooseVictim({Prompt(1, 1, false)}), -1);
}

TEST(Scheduler, KeepsItsPromisesOnRandomInputs) {
  std::mt19937 random(2);
  const auto number = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<Candidate> all;
    const int n = number(1, 12);
    int decoding = 0, prefilling = 0;
    for (int i = 0; i < n; ++i) {
      Candidate c = number(0, 2) == 0
                        ? Decoding(static_cast<uint64_t>(i))
                        : Prompt(static_cast<uint64_t>(i), number(1, 2000), number(0, 1) == 1);
      c.priority = number(-1, 1);
      c.all_logits = number(0, 3) == 0;
      c.age = number(0, 100);
      c.token_seconds = number(0, 3) * 1e-4;
      decoding += c.running && c.remaining_prompt == 0;
      prefilling += c.running && c.remaining_prompt > 0;
      all.push_back(c);
    }
    StepBudget budget = Budget(n + number(0, 600), number(0, 4), number(0, 100));
    if (number(0, 1)) budget.seconds = number(0, 10) * 0.005;
    const StepDecision d = Schedule(all, budget);
    int total = 0, begun = 0, logits = 0, moved = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      const Candidate& c = all[i];
      total += d.tokens[i];
      ASSERT_GE(d.tokens[i], 0);
      if (c.remaining_prompt == 0) {
        ASSERT_EQ(d.tokens[i], c.running);
        continue;
      }
      ASSERT_LE(d.tokens[i], c.remaining_prompt);
      begun += !c.running && d.tokens[i] > 0;
      moved += d.tokens[i] > 0;
      if (c.all_logits) logits += d.tokens[i];
    }
    ASSERT_LE(total, budget.tokens);
    ASSERT_LE(begun, budget.free_slots);
    ASSERT_LE(logits, budget.logit_rows);
    if (prefilling > 0) {
      ASSERT_GT(moved, 0) << "prompts do not starve beside decoding";
    }
  }
}

}  // namespace
}  // namespace lserve
