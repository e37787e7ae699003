// The policy of a step: who computes how many tokens. Pure: it sees numbers only and changes
// nothing, so it can be tested without a model.
//
//   1. Every running sequence that decodes gets its token.
//   2. What is left of the step, in tokens and in time, goes to prompts. Beside decoding sequences
//      the time is short (StepBudget::seconds), so that answers keep flowing; alone they get all.
//      But some prompt tokens are always computed, however late the step is.
//   3. The oldest prompt gets a quarter, so that a long one always moves on; the rest goes to the
//      shortest remaining first, so that a short one never waits for a long one. Every step that a
//      prompt has been here counts as kAgeing tokens of its work, so that it is not overtaken for
//      ever. Lower priority values come before all this.
//   4. A waiting prompt may begin when a sequence slot is free and the pools can hold its whole
//      prompt beside what running prompts still need. One that the pools cannot hold yet may be
//      overtaken by others for kPatience steps; then nobody begins before it.
#pragma once

#include <cstdint>
#include <vector>

namespace lserve {

inline constexpr int kPatience = 256;
inline constexpr int kAgeing = 32;      // tokens a step
inline constexpr int kLeastChunk = 64;  // prompt tokens a step, whatever the time

// A sequence as the policy sees it.
struct Candidate {
  uint64_t order = 0;                // arrival
  int priority = 0;                  // smaller first
  bool running = false;              // has a slot
  int remaining_prompt = 0;          // 0: decodes
  int64_t age = 0;                   // steps since arrival
  double token_seconds = 0;          // of a prompt token; 0: not known
  double start_seconds = 0;          // of taking part with a prompt, beside its tokens
  bool all_logits = false;           // logits of every prompt token are wanted (prompt logprobs)
  int64_t pages_needed[2] = {0, 0};  // to finish the prompt, by HeadClass
  int blocked_steps = 0;
};

struct StepBudget {
  int tokens = 0;
  double seconds = -1;  // for prompt tokens; below 0: no limit
  int unit = 64;        // chunks that do not end their prompt are multiples of it where they can
  // Such a chunk gives up some tokens where that makes the step's rows, answers included, a
  // multiple of the unit: a GPU's products cost as much for one row more as for a whole tile.
  bool fit_rows = false;
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
