// The k largest of up to tens of thousands of keys in shared memory, exactly, by one thread block:
// ties to the lower index, the result ascending by index.
#pragma once

#include <cstdint>

namespace lserve::cuda {

inline constexpr int kTopKThreads = 512;
inline constexpr int kTopKWarps = kTopKThreads / 32;

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

// log2 of the sum of 2^x over all threads' values, of which a thread gives the largest and the sum
// relative to it; kN sums at a time, in a fixed order. Every thread gets the results.
template <int kN>
__device__ __forceinline__ void BlockLogSum(float (&top)[kN], float (&sum)[kN], float (&out)[kN]) {
  __shared__ float tops[kN][kTopKWarps], sums[kN][kTopKWarps], logs[kN];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto reduce = [](float* t, float* s) {  // over a warp
    float all = *t;
    for (int d = 16; d > 0; d /= 2) all = fmaxf(all, __shfl_xor_sync(~0u, all, d));
    *s = all > -INFINITY ? *s * exp2f(*t - all) : 0.0f, *t = all;
    for (int d = 16; d > 0; d /= 2) *s += __shfl_xor_sync(~0u, *s, d);
  };
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    reduce(&top[n], &sum[n]);
    if (lane == 0) tops[n][warp] = top[n], sums[n][warp] = sum[n];
  }
  __syncthreads();
  if (warp < kN) {
    float t = lane < kTopKWarps ? tops[warp][lane] : -INFINITY;
    float s = lane < kTopKWarps ? sums[warp][lane] : 0.0f;
    reduce(&t, &s);
    if (lane == 0) logs[warp] = t > -INFINITY ? t + log2f(s) : 0.0f;
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < kN; ++n) out[n] = logs[n];
}

// keys[i] = max over heads of (S / sqrt(D) - lse), lse over all i of that head. `scores` is
// [heads][stride]; scale 1 / sqrt(D). Ends without a barrier.
__device__ __forceinline__ KeyRange MergeHeads(const float* scores, int64_t stride, int heads,
                                               int n, float scale, uint32_t* keys) {
  constexpr int kTogether = 4, kKeep = 4;       // heads at a time; scores of a head in registers
  const float log_scale = scale * 1.44269504f;  // in units of log 2: the order is the same
  KeyRange range;
  for (int first = 0; first < heads; first += kTogether) {
    const float* from = scores + first * stride;
    const int here = min(kTogether, heads - first);
    const bool last = first + kTogether >= heads;
    const auto load = [&](int h, int i) {
      return h < here && i < n ? from[h * stride + i] * log_scale : -INFINITY;
    };
    const auto fold = [&](int i, float best) {
      uint32_t key = Sortable(best);
      if (first > 0) key = max(keys[i], key);
      keys[i] = key;
      if (last) range.Add(key);
    };
    float top[kTogether], sum[kTogether], log_sum[kTogether];
    if (n <= kKeep * kTopKThreads) {
      float x[kTogether][kKeep];
#pragma unroll
      for (int h = 0; h < kTogether; ++h)
#pragma unroll
        for (int j = 0; j < kKeep; ++j) x[h][j] = load(h, threadIdx.x + j * kTopKThreads);
#pragma unroll
      for (int h = 0; h < kTogether; ++h) {
        top[h] = -INFINITY, sum[h] = 0;
#pragma unroll
        for (int j = 0; j < kKeep; ++j) top[h] = fmaxf(top[h], x[h][j]);
        if (h < here && top[h] > -INFINITY)
#pragma unroll
          for (int j = 0; j < kKeep; ++j) sum[h] += exp2f(x[h][j] - top[h]);
      }
      BlockLogSum(top, sum, log_sum);
#pragma unroll
      for (int j = 0; j < kKeep; ++j) {
        const int i = threadIdx.x + j * kTopKThreads;
        if (i >= n) break;
        float best = -INFINITY;
#pragma unroll
        for (int h = 0; h < kTogether; ++h)
          if (h < here) best = fmaxf(best, x[h][j] - log_sum[h]);
        fold(i, best);
      }
      continue;
    }
#pragma unroll
    for (int h = 0; h < kTogether; ++h) {
      top[h] = -INFINITY, sum[h] = 0;
      if (h >= here) continue;
      for (int i = threadIdx.x; i < n; i += kTopKThreads) top[h] = fmaxf(top[h], load(h, i));
      if (top[h] > -INFINITY)
        for (int i = threadIdx.x; i < n; i += kTopKThreads) sum[h] += exp2f(load(h, i) - top[h]);
    }
    BlockLogSum(top, sum, log_sum);
    for (int i = threadIdx.x; i < n; i += kTopKThreads) {
      float best = -INFINITY;
#pragma unroll
      for (int h = 0; h < kTogether; ++h)
        if (h < here) best = fmaxf(best, load(h, i) - log_sum[h]);
      fold(i, best);
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
