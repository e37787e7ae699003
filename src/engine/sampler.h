// Choosing the next token from a row of logits. A pure function of logits, parameters and counts:
// the random numbers are counter-based (Philox keyed by seed, position and token), so a seed gives
// the same answer whatever else runs in the batch. One thread a Sampler.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace lserve {

// The first 32-bit output of Philox4x32-10 (Salmon et al., SC 2011) for this counter and key.
uint32_t Philox(uint64_t key, uint64_t counter_low, uint64_t counter_high);

struct Sampled {
  TokenLogprob chosen;  // logprob of the model's own distribution (raw logits), as vLLM reports it
  std::vector<TokenLogprob> top;  // params.logprobs best, best first
};

class Sampler {
 public:
  // `eos` and stop ids are held back for params.min_tokens tokens.
  Sampler(const SamplingParams& params, uint64_t seed, std::vector<int32_t> eos,
          std::span<const int32_t> prompt, int vocab);

  // Whether the next token is the one of the largest logit and nothing else is asked of the logits.
  bool plain_greedy() const;
  // Logits of the next token, [vocab]; changed. Ties go to the lower id; NaN counts as -infinity.
  Sampled Sample(std::span<float> logits);
  // The chosen token becomes part of the counts.
  void Accept(int32_t token);

 private:
  void ApplyPenalties(std::span<float> logits) const;
  int32_t Draw(std::span<const float> logits);

  SamplingParams params_;
  uint64_t seed_;
  std::vector<int32_t> eos_;
  std::vector<uint16_t> generated_;  // [vocab] counts, empty when no penalty needs them
  std::vector<bool> seen_;           // [vocab] prompt or generated; empty when not needed
  std::vector<int32_t> order_;       // scratch
  int64_t position_ = 0;             // tokens generated
};

// log-softmax of raw logits: the given token's entry and the k best. `logits` may hold NaN (counted
// as -infinity).
Sampled Logprobs(std::span<const float> logits, int32_t token, int k);

}  // namespace lserve
