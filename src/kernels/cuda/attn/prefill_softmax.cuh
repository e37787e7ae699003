// Online softmax over the registers of a 64 x 128 (or 16-row) accumulator: thread-local rows r = 0
// and 1 (g and g + 8 of the fragment), whose columns are spread over the four lanes of a quad. Sums
// stay thread-local until Finish. Scores are raw products; `scale` folds the attention's scale and
// log2(e).
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/ptx/warp_mma.cuh"

namespace lserve::cuda {

// Where the K and V of a KV head lie (PrefillArgs).
__device__ __forceinline__ int ScratchHead(int kv_head, int first_kv_head, uint64_t kept_heads,
                                           int kept_first) {
  const uint64_t bit = uint64_t{1} << kv_head;
  return kept_heads & bit ? kept_first + __popcll(kept_heads & (bit - 1)) : kv_head - first_kv_head;
}

inline constexpr float kLog2E = 1.4426950408889634f;

struct SoftmaxRows {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.f, 0.f};
};

__device__ __forceinline__ float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float QuadSum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// The natural logarithm of a row's sum, from the whole row's maximum and sum.
__device__ __forceinline__ float LogSum(float max, float sum, float scale) {
  return sum > 0.f ? (max * scale + log2f(sum)) / kLog2E : -INFINITY;
}

// A row's reference maximum moves only when scores exceed it by this many powers of two: sums and
// outputs are relative to it, and rarely moving it saves their rescaling.
inline constexpr float kMaximumSlack = 8.f;

// s = exp(scale * s - the row's reference maximum); `rescale` is what earlier outputs must be
// multiplied with (sums are), mostly 1. A row that has seen no key yet keeps zeros: its maximum
// counts as 0.
template <int kSize>
__device__ __forceinline__ void SoftmaxStep(float (&s)[kSize], float scale, SoftmaxRows* rows,
                                            float (&rescale)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float m0 = fmaxf(s[2 * r], s[2 * r + 1]), m1 = fmaxf(s[4 + 2 * r], s[4 + 2 * r + 1]);
#pragma unroll
    for (int g = 8; g < kSize; g += 8) {
      m0 = fmaxf(m0, fmaxf(s[g + 2 * r], s[g + 2 * r + 1]));
      m1 = fmaxf(m1, fmaxf(s[g + 4 + 2 * r], s[g + 4 + 2 * r + 1]));
    }
    const float before = rows->max[r];
    const float most = fmaxf(before, QuadMax(fmaxf(m0, m1)));
    const float now = (most - before) * scale <= kMaximumSlack ? before : most;
    const float base = now == -INFINITY ? 0.f : now * scale;
    rescale[r] = now == before ? 1.f : ptx::Exp2(before * scale - base);
    rows->max[r] = now;
    float sum0 = 0.f, sum1 = 0.f;
#pragma unroll
    for (int g = 0; g < kSize; g += 8) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& a = s[g + 2 * r + e];
        float& b = s[g + 4 + 2 * r + e];
        a = ptx::Exp2(a * scale - base);
        b = ptx::Exp2(b * scale - base);
        sum0 += a;
        sum1 += b;
      }
    }
    rows->sum[r] = rows->sum[r] * rescale[r] + (sum0 + sum1);
  }
}

}  // namespace lserve::cuda
