// Rotary position embedding: the inverse frequencies of every supported kind, and tables of cosines
// and sines. All in double from integer positions, since float angles are wrong by whole turns'
// parts at a million tokens. Immutable after it is made; any thread. Formulas: transformers,
// modeling_rope_utils.py; frequency factors (GGUF's rope_freqs.weight) divide as in llama.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "model/config.h"

namespace lserve {

class RopeFrequencies {
 public:
  RopeFrequencies() = default;
  // `max_context`: the longest sequence that will run. "dynamic" takes its factor from it once,
  // because keys are cached after rotation; other kinds ignore it.
  static RopeFrequencies Make(const RopeConfig& rope, int head_dim, int max_context);

  // out [positions][D]: D/2 cosines, then D/2 sines, times the attention factor.
  void Angles(std::span<const int32_t> positions, Mat out) const;

  const std::vector<double>& inverse() const { return inverse_; }  // [D/2], radians a position
  double attention_factor() const { return attention_factor_; }    // yarn; else 1

 private:
  std::vector<double> inverse_;
  double attention_factor_ = 1;
};

}  // namespace lserve
