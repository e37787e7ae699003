// The k largest of up to tens of thousands of keys in shared memory, exactly, by one thread block:
// ties to the lower index, the result ascending by index.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx/warp_mma.cuh"

namespace lserve::cuda {

inline constexpr int kTopKThreads = 512;
inline constexpr int kTopKWarps = kTopKThreads / 32;
inline constexpr int kMostHeads = 64;  // of a shared list

// Order of floats as order of unsigned numbers; all NaN aside.
__device__ __forceinline__ uint32_t Sortable(float x) {
  const uint32_t bits = __float_as_uint(x == 0 ? 0.0f : x);  // -0 and 0 are equal
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The smallest and the largest key.
struct KeyRange {
  uint32_t low = ~0u, high = 0;
  __device__ void Add(uint32_t key) { low = min(low, key), high = max(high, key); }
};

// keys[i] = max over heads of (S / sqrt(D) - lse), lse over all i of that head, in units of log 2:
// the order is the same. `scores` is [heads][stride] of Score::Value, written by other thread
// blocks; scale is 1 / sqrt(D). Sums have a fixed order. Ends without a barrier.
template <class Score>
__device__ __forceinline__ KeyRange MergeHeads(const typename Score::Value* scores, int64_t stride,
                                               int heads, int n, float scale, uint32_t* keys) {
  constexpr int kBatch = 8;                         // loads under way
  __shared__ float2 parts[kMostHeads][kTopKWarps];  // largest, and sum relative to it
  __shared__ float log_sums[kMostHeads];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  scale *= 1.44269504f;
  int each = 1;  // warps of a head
  while (each * 2 * heads <= kTopKWarps) each *= 2;
#pragma unroll 1
  for (int unit = warp; unit < each * heads; unit += kTopKWarps) {
    const auto* from = scores + unit / each * stride;
    float top = -INFINITY, sum = 0;
#pragma unroll 1
    for (int i = unit % each * 32 + lane; i < n; i += kBatch * 32 * each) {
      float x[kBatch], best = top;
#pragma unroll
      for (int k = 0; k < kBatch; ++k)
        x[k] = i + k * 32 * each < n ? Score::Read(from + i + k * 32 * each) * scale : -INFINITY;
#pragma unroll
      for (int k = 0; k < kBatch; ++k) best = fmaxf(best, x[k]);
      if (best == -INFINITY) continue;
      sum *= ptx::Exp2(top - best);
#pragma unroll
      for (int k = 0; k < kBatch; ++k) sum += ptx::Exp2(x[k] - best);
      top = best;
    }
    float best = top;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, d));
    sum = best > -INFINITY ? sum * ptx::Exp2(top - best) : 0.0f;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0) parts[unit / each][unit % each] = make_float2(best, sum);
  }
  __syncthreads();
  if (threadIdx.x < heads) {
    float best = -INFINITY, sum = 0;
#pragma unroll 1
    for (int i = 0; i < each; ++i) best = fmaxf(best, parts[threadIdx.x][i].x);
#pragma unroll 1
    for (int i = 0; i < each && best > -INFINITY; ++i)
      sum += parts[threadIdx.x][i].y * ptx::Exp2(parts[threadIdx.x][i].x - best);
    log_sums[threadIdx.x] = best > -INFINITY ? best + log2f(sum) : 0.0f;
  }
  __syncthreads();
  KeyRange range;
#pragma unroll 1
  for (int i = threadIdx.x; i < n; i += 4 * kTopKThreads) {
    float best[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
#pragma unroll 2
    for (int h = 0; h < heads; ++h)
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (i + k * kTopKThreads < n)
          best[k] = fmaxf(best[k], Score::Read(scores + h * stride + i + k * kTopKThreads) * scale -
                                       log_sums[h]);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (i + k * kTopKThreads < n) {
        keys[i + k * kTopKThreads] = Sortable(best[k]);
        range.Add(Sortable(best[k]));
      }
  }
  return range;
}

// What is chosen: every key >= above, and of those equal to `equal` the first `quota`.
struct Threshold {
  uint32_t above, equal;
  int quota;
};

// REQUIRES: 0 < k < n. Begins with a barrier; `range`: over this thread's keys.
__device__ __forceinline__ Threshold FindThreshold(const uint32_t* keys, int n, int k,
                                                   KeyRange range) {
  constexpr int kDigits = 4;  // of 8 bits
  __shared__ int4 histogram[kDigits][64];
  __shared__ uint32_t lows[kTopKWarps], highs[kTopKWarps];
  __shared__ uint32_t found_digit;
  __shared__ int found_count, found_above;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // Digits begin where the keys begin to differ, so that one histogram spreads them well.
  uint32_t low = __reduce_min_sync(~0u, range.low), high = __reduce_max_sync(~0u, range.high);
  if (lane == 0) lows[warp] = low, highs[warp] = high;
  if (threadIdx.x < kDigits * 64) histogram[threadIdx.x / 64][threadIdx.x % 64] = {};
  __syncthreads();
  low = __reduce_min_sync(~0u, lows[lane % kTopKWarps]);
  high = __reduce_max_sync(~0u, highs[lane % kTopKWarps]);
  if (low == high) return {low + 1, low, k};

  int bits = 32 - __clz(low ^ high);  // not yet decided
  uint32_t prefix = bits == 32 ? 0 : low >> bits << bits;
  for (int digit = 0;; ++digit) {
    const int shift = max(0, bits - 8);
    int* counts = &histogram[digit][0].x;
    for (int i = threadIdx.x; i < n; i += kTopKThreads)
      if (bits == 32 || (keys[i] ^ prefix) >> bits == 0)
        atomicAdd(&counts[(keys[i] - prefix) >> shift], 1);
    __syncthreads();
    if (warp == 0) {  // lane l has the digits from 255 - 8 l down
      const int4 a = histogram[digit][63 - 2 * lane], b = histogram[digit][62 - 2 * lane];
      const int count[8] = {a.w, a.z, a.y, a.x, b.w, b.z, b.y, b.x};
      int sum = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += count[j];
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
    __syncthreads();  // before the next digit is found
  }
}

// out[0 .. k) = first + i of the chosen i, ascending. All threads; REQUIRES: 0 < k < n. Begins with
// a barrier; `range`: over the keys that this thread wrote.
__device__ __forceinline__ void TopK(const uint32_t* keys, int n, int k, KeyRange range, int first,
                                     int32_t* out) {
  __shared__ int above_of[kTopKWarps], equal_of[kTopKWarps];
  const Threshold threshold = FindThreshold(keys, n, k, range);
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
