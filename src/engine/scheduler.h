// The policy of a step: who computes how many tokens. Pure: it sees numbers only and changes
// nothing, so it can be tested without a model.
//
//   1. Every running sequence that decodes gets its token.
//   2. What is left of the step's token budget goes to prompts. The oldest gets a quarter of it, so
//   that a long prompt always moves on; the rest goes to the shortest
//      remaining first, so that a short one never waits for a long one. Lower priority values come
//      before both.
//   3. A waiting prompt may begin when a sequence slot is free and the pools can hold its whole
//   prompt beside what running prompts still need. One that the pools cannot hold yet may be
//      overtaken by others for kPatience steps; then nobody begins before it.
#pragma once

#include <cstdint>
#include <vector>

namespace lserve {

inline constexpr int kPatience = 256;

// A sequence as the policy sees it.
struct Candidate {
  uint64_t order = 0;                // arrival
  int priority = 0;                  // smaller first
  bool running = false;              // has a slot
  int remaining_prompt = 0;          // 0: decodes
  bool all_logits = false;           // logits of every prompt token are wanted (prompt logprobs)
  int64_t pages_needed[2] = {0, 0};  // to finish the prompt, by HeadClass
  int blocked_steps = 0;
};

struct StepBudget {
  int tokens = 0;
  int logit_rows =
      64;  // prompt tokens with all_logits, all candidates together: bounds the memory of logits
  int free_slots = 0;
  int64_t free_pages[2] = {0, 0};
};

// tokens[i] for candidate i: 0, 1 for a decoding one, or the length of its prompt chunk. blocked:
// the waiting candidate that the pools cannot hold, or -1.
struct StepDecision {
  std::vector<int> tokens;
  int blocked = -1;
};
StepDecision Schedule(const std::vector<Candidate>& candidates, const StepBudget& budget);

// Which of the running candidates loses its pages when they run out: the lowest priority, of those
// the youngest. -1: none runs.
int ChooseVictim(const std::vector<Candidate>& candidates);

}  // namespace lserve
