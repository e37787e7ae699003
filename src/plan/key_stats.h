// Key statistics: a box around the keys of each logical page, by which pages are ranked without
// reading their keys (`--page-score bounds`, `bounds8`). Of every channel the minimum and maximum
// over the DECODED keys, rounded outward, so that for every query q and key k of the logical page
//     q.k <= sum_i max(q_i * low_i, q_i * high_i).
//
// They are made from the stored keys once the last of them is stored, and so are a function of
// these alone, however tokens came. Until then they are undefined: selection reads closed pages.
//
// Of one slice (docs/formats.md), P = 64 / logical_tokens:
//     16 bits: bf16 [P][2][D], minima then maxima
//      8 bits: codes [P][2][D] | bf16 [P][2][2] | up to a multiple of 32 bytes
// In 8 bits each side (the minima or the maxima of a logical page) has a scale s and a minimum m,
// in this order, and x_hat = s * code + m. (Of both sides together it would be a third wider.)
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/kv_codec.h"

namespace lserve {

struct KeyStats {
  int logical_tokens = 16;  // 16, 32 or 64; 0: there are no statistics
  int dim = 0;
  int bits = 16;  // or 8

  int pages_per_block() const { return logical_tokens > 0 ? kBlockTokens / logical_tokens : 0; }
  size_t slice_bytes() const;
  // Whether token [0, 64) of a block is the last of its logical page.
  bool Completes(int token) const {
    return logical_tokens > 0 && (token + 1) % logical_tokens == 0;
  }

  // Makes those of logical page `page` from a slice that holds all its keys. NaN counts for
  // nothing. The plain definition: every fast version must store the same bytes.
  void Store(const KvCodec& codec, const std::byte* slice, int page, uint16_t* stats) const;
  // Stores bounds [D] that are known.
  void Encode(const float* low, const float* high, int page, uint16_t* stats) const;
  // What is stored.
  void Decode(const uint16_t* stats, int page, float* low, float* high) const;
};

}  // namespace lserve
