// Choosing the next token from a row of logits. A pure function of logits, parameters and counts:
// the random numbers are counter-based (Philox keyed by seed, position and token), so a seed gives
// the same answer whatever else runs in the batch. One thread a Sampler.
//
// In order, NaN being -infinity: a token's bias is added, its repetition penalty multiplied or
// divided, its frequency and presence penalties subtracted, endings held back while min_tokens are
// not reached (float arithmetic). Then min-p, top-k, top-p, each over what the one before left, at
// the temperature; then the largest (x - max) / T - log(-log(u)), in double arithmetic. Ties go to
// the lower id everywhere. Log probabilities are of the logits before all this.
//
// Where the logits lie on a device the same choice is made from candidates (candidate_sampler.cc).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/request.h"
#include "kernels/candidates.h"

namespace lserve {

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

  // Whether candidates may do instead of the logits. Fills in all of `ask` but its row, and appends
  // the token ids whose logits are needed besides to `wanted`.
  bool Ask(CandidateAsk* ask, std::vector<int32_t>* wanted) const;
  // What Sample gives of the same logits; nothing where the candidates do not settle it. `wanted`
  // and its logits are the step's lists.
  std::optional<Sampled> Sample(const CandidateAsk& ask, const CandidateRow& row,
                                std::span<const int32_t> wanted,
                                std::span<const float> wanted_logits);

  // The chosen token becomes part of the counts.
  void Accept(int32_t token);

 private:
  struct Token {
    int32_t id;
    float logit;
  };
  struct Winner {
    Token token;
    double value;
  };
  static bool Better(const Token& a, const Token& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }
  double Scaled(const Token& token, float max) const {
    return (static_cast<double>(token.logit) - max) * inverse_;
  }
  // Smaller temperatures would overflow.
  bool greedy() const { return params_.temperature <= 1e-5; }
  // Whether a nucleus is cut out of the whole vocabulary.
  bool needs_total() const { return draws_from_all() && params_.top_p < 1; }
  bool draws_from_all() const { return !greedy() && params_.top_k == 0; }

  void Touch(int32_t id);
  // The token's logit after bias and penalties.
  float Adjusted(int32_t id, float logit) const;
  // Of min-p: the smallest logit that it leaves, and that less the largest one.
  float Floor(float max) const { return max + FloorBelow(); }
  float FloorBelow() const;
  int32_t Draw(std::span<const float> logits);
  // Of tokens_, in any order: what top-p compares with, and Gumbel-max.
  double Mass(float max) const;
  Winner Pick(float max) const;
  // Whether a token belongs to the nucleus whose mass is `line`, by the mass of the better ones;
  // nothing where that is not known: sums may be off by `margin`.
  static std::optional<bool> Inside(double above, double line, double margin);
  // The winner of the nucleus. tokens_ are all of the vocabulary, or all that can win against
  // `bound`; `inside` tells whether a token belongs to the nucleus. Nothing where it is not
  // settled.
  using Judge = std::function<std::optional<bool>(const Token&)>;
  std::optional<int32_t> PickInside(float max, double bound, const Judge& inside);
  // The same where tokens_ has all of the nucleus.
  std::optional<int32_t> PickNucleus(float max, double line, double margin);

  // candidate_sampler.cc
  bool wants_touched() const { return raises_ || needs_total(); }
  size_t Gather(const CandidateRow& row, std::span<const int32_t> wanted,
                std::span<const float> wanted_logits);
  std::optional<int32_t> DrawFrom(const CandidateAsk& ask, const CandidateRow& row, size_t certain,
                                  std::span<const int32_t> wanted,
                                  std::span<const float> wanted_logits);
  // A wanted token before and after bias and penalties, with its parts of the masses.
  struct Change {
    Token before, after;
    double mass_before, mass_after;
  };
  std::optional<bool> InsideByDraws(const CandidateRow& row, double scale,
                                    std::span<const Change> changes, double line, double margin,
                                    const Token& token) const;

  SamplingParams params_;  // logit_bias in order of id
  uint64_t seed_;
  int vocab_;
  double inverse_;  // of the temperature
  std::vector<int32_t> eos_;
  std::vector<uint16_t> generated_;  // [vocab] counts, empty when no penalty needs them
  std::vector<bool> seen_;           // [vocab] prompt or generated; empty when not needed
  // Tokens that Adjusted may change: [vocab], empty where nothing can, and the same as a list.
  std::vector<bool> touched_;
  std::vector<int32_t> touched_ids_;
  bool raises_ = false;        // Adjusted may make a logit larger
  std::vector<Token> tokens_;  // scratch
  int64_t position_ = 0;       // tokens generated
};

// log-softmax of raw logits: the given token's entry and the k best. `logits` may hold NaN (counted
// as -infinity).
Sampled Logprobs(std::span<const float> logits, int32_t token, int k);

}  // namespace lserve
