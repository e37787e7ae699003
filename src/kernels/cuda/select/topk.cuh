// The k largest of up to tens of thousands of keys in shared memory, exactly, by one thread block:
// ties to the lower index, the result ascending by index.
#pragma once

#include <cstdint>

namespace lserve::cuda {

inline constexpr int kTopKThreads = 1024;
inline constexpr int kTopKWarps = kTopKThreads / 32;

// Order of floats as order of unsigned numbers; all NaN aside.
__device__ __forceinline__ uint32_t Sortable(float x) {
  const uint32_t bits = __float_as_uint(x == 0 ? 0.0f : x);  // -0 and 0 are equal
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Combines `values` of all threads by `op`, each of the kN apart; every thread gets the results.
template <int kN, class Op>
__device__ __forceinline__ void BlockReduce(float (&values)[kN], Op op) {
  __shared__ float parts[kN][kTopKWarps + 1];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    for (int d = 16; d > 0; d /= 2) values[n] = op(values[n], __shfl_xor_sync(~0u, values[n], d));
    if (lane == 0) parts[n][warp] = values[n];
  }
  __syncthreads();
  if (warp < kN) {
    float x = parts[warp][lane];
    for (int d = 16; d > 0; d /= 2) x = op(x, __shfl_xor_sync(~0u, x, d));
    if (lane == 0) parts[warp][kTopKWarps] = x;
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < kN; ++n) values[n] = parts[n][kTopKWarps];
  __syncthreads();
}

// keys[i] = max over heads of (S / sqrt(D) - lse), lse over all i of that head. `scores` is
// [heads][stride]; scale 1 / sqrt(D).
__device__ __forceinline__ void MergeHeads(const float* scores, int64_t stride, int heads, int n,
                                           float scale, uint32_t* keys) {
  constexpr int kTogether = 8;
  const float log_scale = scale * 1.44269504f;  // in units of log 2: the order is the same
  for (int first = 0; first < heads; first += kTogether) {
    const float* from = scores + first * stride;
    const int here = min(kTogether, heads - first);
    float top[kTogether], sum[kTogether];
#pragma unroll
    for (int h = 0; h < kTogether; ++h) top[h] = -INFINITY, sum[h] = 0;
    for (int i = threadIdx.x; i < n; i += kTopKThreads)
#pragma unroll
      for (int h = 0; h < kTogether; ++h)
        if (h < here) top[h] = fmaxf(top[h], from[h * stride + i] * log_scale);
    BlockReduce(top, [](float a, float b) { return fmaxf(a, b); });
    for (int i = threadIdx.x; i < n; i += kTopKThreads)
#pragma unroll
      for (int h = 0; h < kTogether; ++h)
        if (h < here && top[h] > -INFINITY)
          sum[h] += exp2f(from[h * stride + i] * log_scale - top[h]);
    BlockReduce(sum, [](float a, float b) { return a + b; });
#pragma unroll
    for (int h = 0; h < kTogether; ++h) sum[h] = top[h] > -INFINITY ? top[h] + log2f(sum[h]) : 0;
    for (int i = threadIdx.x; i < n; i += kTopKThreads) {
      float best = -INFINITY;
#pragma unroll
      for (int h = 0; h < kTogether; ++h)
        if (h < here) best = fmaxf(best, from[h * stride + i] * log_scale - sum[h]);
      const uint32_t key = Sortable(best);
      keys[i] = first == 0 ? key : max(keys[i], key);
    }
  }
}

// What is chosen: every key >= above, and of those equal to `equal` the first `quota`.
struct Threshold {
  uint32_t above, equal;
  int quota;
};

// REQUIRES: 0 < k < n.
__device__ __forceinline__ Threshold FindThreshold(const uint32_t* keys, int n, int k) {
  __shared__ int histogram[256];
  __shared__ uint32_t extreme[2][kTopKWarps];
  __shared__ uint32_t found_digit;
  __shared__ int found_count, found_above;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // Digits begin where the keys begin to differ, so that one histogram spreads them well.
  uint32_t low = ~0u, high = 0;
  for (int i = threadIdx.x; i < n; i += kTopKThreads)
    low = min(low, keys[i]), high = max(high, keys[i]);
  low = __reduce_min_sync(~0u, low), high = __reduce_max_sync(~0u, high);
  if (lane == 0) extreme[0][warp] = low, extreme[1][warp] = high;
  __syncthreads();
  low = __reduce_min_sync(~0u, extreme[0][lane]), high = __reduce_max_sync(~0u, extreme[1][lane]);
  if (low == high) return {low + 1, low, k};

  int bits = 32 - __clz(low ^ high);  // not yet decided
  uint32_t prefix = bits == 32 ? 0 : low >> bits << bits;
  for (;;) {
    const int shift = max(0, bits - 8);
    if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += kTopKThreads)
      if (bits == 32 || (keys[i] ^ prefix) >> bits == 0)
        atomicAdd(&histogram[(keys[i] - prefix) >> shift], 1);
    __syncthreads();
    if (warp == 0) {  // lane l has the digits 255 - 8 l and seven below
      int count[8], sum = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += count[j] = histogram[255 - 8 * lane - j];
      int above = sum;
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(~0u, above, d);
        if (lane >= d) above += other;
      }
      above -= sum;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (above < k && above + count[j] >= k)
          found_digit = 255 - 8 * lane - j, found_count = count[j], found_above = above;
        above += count[j];
      }
    }
    __syncthreads();
    prefix += found_digit << shift;
    k -= found_above;
    if (found_count == k) return {prefix, 0, 0};
    if (shift == 0) return {prefix + 1, prefix, k};
    bits = shift;
  }
}

// out[0 .. k) = first + i of the chosen i, ascending. All threads; REQUIRES: 0 < k < n.
__device__ __forceinline__ void TopK(const uint32_t* keys, int n, int k, int first, int32_t* out) {
  __shared__ int above_of[kTopKWarps], equal_of[kTopKWarps];
  const Threshold threshold = FindThreshold(keys, n, k);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int each = (n + kTopKThreads - 1) / kTopKThreads * 32;  // consecutive keys of a warp
  const int begin = warp * each, end = min(n, begin + each);
  const auto vote = [&](int base, unsigned* above, unsigned* equal) {
    const uint32_t key = base + lane < end ? keys[base + lane] : 0;
    const bool in = base + lane < end;
    *above = __ballot_sync(~0u, in && key >= threshold.above);
    *equal = __ballot_sync(~0u, in && threshold.quota > 0 && key == threshold.equal);
  };
  unsigned above, equal;
  int above_count = 0, equal_count = 0;
  for (int base = begin; base < end; base += 32) {
    vote(base, &above, &equal);
    above_count += __popc(above), equal_count += __popc(equal);
  }
  if (lane == 0) above_of[warp] = above_count, equal_of[warp] = equal_count;
  __syncthreads();
  int above_before = __reduce_add_sync(~0u, lane < warp ? above_of[lane] : 0);
  int equal_before = __reduce_add_sync(~0u, lane < warp ? equal_of[lane] : 0);
  const unsigned below = (1u << lane) - 1;
  for (int base = begin; base < end; base += 32) {
    vote(base, &above, &equal);
    const int equal_rank = equal_before + __popc(equal & below);
    const bool chosen =
        (above >> lane & 1) || ((equal >> lane & 1) && equal_rank < threshold.quota);
    if (chosen)
      out[above_before + __popc(above & below) + min(equal_rank, threshold.quota)] =
          first + base + lane;
    above_before += __popc(above), equal_before += __popc(equal);
  }
}

}  // namespace lserve::cuda
