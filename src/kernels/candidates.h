// What of a row of logits a sampler needs to hear of, where the logits lie on a device: the largest
// ones in order, sums over all of them, and the likeliest winners of a draw over the whole
// vocabulary. Some kilobytes instead of the vocabulary; the sampler on the host finishes the choice
// (engine/candidate_sampler.cc), so that there is one sampler. Plain data, the same on the host and
// on a device; NaN counts as -infinity everywhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace lserve {

inline constexpr int kCandidates = 1024;
inline constexpr int kDraws = 32;
inline constexpr int kMostWanted = 8192;  // token ids whose logits a row may ask for besides
// What a device's float arithmetic may be off in a small value of a draw.
inline constexpr double kDrawError = 1e-4;
// -log(-log(u)) for the largest u that DrawUniform gives is 22.9.
inline constexpr double kLargestGumbel = 23;

// The first 32-bit output of Philox4x32-10 (Salmon et al., SC 2011) for this counter and key.
constexpr uint32_t Philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32),
           c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
  }
  return c0;
}

// A token's random number is a function of seed, position in the answer and token: u = (this + 0.5)
// / 2^32.
constexpr uint32_t DrawBits(uint64_t seed, int64_t position, int32_t token) {
  return Philox(seed, static_cast<uint64_t>(position), static_cast<uint64_t>(token));
}

// One row's question.
struct CandidateAsk {
  int32_t row = 0;                                        // of the logits
  bool total = false, normalizer = false, draws = false;  // what is needed
  float floor = -INFINITY;         // of `total`: logits below the largest + this do not count
  double inverse_temperature = 1;  // of `total` and `draws`
  uint64_t seed = 0;               // of `draws`, as `position`
  int64_t position = 0;
  int32_t wanted_begin = 0, wanted_count = 0;  // its part of the step's list of wanted token ids
};

// Its answer, of the logits as they are.
struct CandidateRow {
  double total = 0;           // sum over all tokens that count of exp((x - largest) / T)
  double normalizer = 0;      // likewise with T = 1
  int32_t count = 0;          // min(kCandidates, vocabulary)
  float draw_bound = 0;       // no token that is not among the draws has (x - largest) / T +
                              // -log(-log(u)) above this
  int32_t ids[kCandidates];   // largest logit first, of equals the smaller id
  float logits[kCandidates];  //
  int32_t draw_ids[kDraws];   // likeliest first; -1: none
  float draw_logits[kDraws];
  double draw_above[kDraws];  // with `total`: its part of tokens that are before this one in the
                              // candidates' order; 0 where they all are candidates, the logit
                              // being above the last one's
};

// The definition, in plain loops: tests hold devices to it, and models without a device can offer
// it. wanted_logits[i] is the logit of wanted[i].
void FindCandidates(std::span<const float> logits, const CandidateAsk& ask,
                    std::span<const int32_t> wanted, CandidateRow* row, float* wanted_logits);

}  // namespace lserve
