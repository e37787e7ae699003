// 4-bit keys. A few channels of a key are often far larger than the rest, and one scale for all
// then leaves the rest two or three codes. So with 4-bit keys Append multiplies q and k by the same
// orthonormal matrix before it stores k, which spreads such a channel over all and changes no
// product (QuaRot, arXiv 2404.00456). Everything behind Append, statistics included, sees the
// transformed vectors. Rounding of half a code remains, so docs/formats.md says for which models
// four bits serve.
#pragma once

#include "plan/kv_codec.h"

namespace lserve {

inline bool TransformsKeys(const KvCodec& codec) { return codec.k_type() == KvType::kKv4; }

// head[0, dim) times the Hadamard matrix of the largest power of two that divides dim, block by
// block; its own inverse. Backends add in this order, so that they store the same bytes.
void HadamardTransform(float* head, int dim);

}  // namespace lserve
