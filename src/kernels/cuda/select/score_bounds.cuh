// Scores of blocks by the best upper bound of their logical pages. A score is a product of two
// vectors of 2 D numbers,
//     S = sum_i max(q_i min_i, q_i max_i) = sum_i min(q_i, 0) min_i + max(q_i, 0) max_i,
// so 16 logical pages times up to 8 query heads is a product on tensor units whose A operand are
// the statistics as they lie in memory: each is read once, 16 bytes a lane, for all heads. A warp
// scores the blocks of 16 logical pages.
//
// In 8 bits (plan/key_stats.h) codes meet q less their bias; scale and minimum of a side follow.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/args.h"
#include "kernels/cuda/kv/codes.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/warp_mma.cuh"

namespace lserve::cuda {

// kDim channels, kPages logical pages of a block, statistics of kBits bits.
template <int kDim, int kPages, int kBits>
class BoundScore {
 public:
  static constexpr int kItemBlocks = 16 / kPages;

  using Value = float;
  static __device__ __forceinline__ void Put(Value* list, int, int block, float best) {
    list[block] = best;
  }
  static __device__ __forceinline__ float Read(const Value* at) { return __ldcg(at); }

  __device__ __forceinline__ BoundScore(const SelectLaunch& args, const DecodeRow& row, int kv_head)
      : pool_(args.view.pools[args.view.head_class[kv_head]]),
        table_(pool_.table + row.slot * pool_.table_stride + row.sink_blocks),
        stats_(reinterpret_cast<const std::byte*>(pool_.stats + args.view.head_rank[kv_head] *
                                                                    args.view.stats_slice)) {}

  // Pages of an item's logical pages g and g + 8.
  struct Place {
    int page[2];
  };
  __device__ __forceinline__ Place Find(int item, int blocks) const {
    const int g = threadIdx.x % 32 / 4;
    const auto page = [&](int r) {
      return __ldcg(table_ + min(item * kItemBlocks + (g + 8 * r) / kPages, blocks - 1));
    };
    return {{page(0), page(1)}};
  }

  // `row`: the query of head g, unless there are fewer heads.
  __device__ __forceinline__ void LoadQuery(const Bf16* row, bool have) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < kEights; ++j)
      q_[j] = have ? *reinterpret_cast<const uint4*>(row + Channel(j)) : uint4{};
    if constexpr (kBits == 8) {
      float sum[2] = {};
#pragma unroll
      for (int j = 0; j < kEights; ++j)
        for (const uint32_t w : {q_[j].x, q_[j].y, q_[j].z, q_[j].w}) {
          const float2 x = UnpackBf16(w);
          sum[0] += fminf(x.x, 0) + fminf(x.y, 0);
          sum[1] += fmaxf(x.x, 0) + fmaxf(x.y, 0);
        }
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        sum[side] += __shfl_xor_sync(~0u, sum[side], 1);
        sum[side] += __shfl_xor_sync(~0u, sum[side], 2);
        for (int i = 0; i < 2; ++i) q_sum_[side][i] = __shfl_sync(~0u, sum[side], 8 * t + 4 * i);
      }
    }
  }

  // Calls query() before it needs the query, and write(block, i, Put's values of head 2t + i) for
  // each block of the item, some beyond the last.
  template <class Query, class Write>
  __device__ __forceinline__ void Run(int item, const Place& place, Query query, Write write) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 x[2][kLoads];
    uint2 scale_min[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int logical = (g + 8 * r) % kPages;
      const std::byte* from = stats_ + place.page[r] * pool_.stats_page_elements * 2;
#pragma unroll
      for (int j = 0; j < kLoads; ++j)
        x[r][j] = __ldcs(
            reinterpret_cast<const uint4*>(from + logical * (kDim * kBits / 4) + 64 * j + 16 * t));
      if constexpr (kBits == 8)
        scale_min[r] =
            __ldcs(reinterpret_cast<const uint2*>(from + kPages * 2 * kDim + 8 * logical));
    }
    query();
    float s[2][4] = {};  // minima, maxima
#pragma unroll
    for (int j = 0; j < kEights; ++j)
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const auto part = [&](uint32_t w) { return side == 0 ? Negative(w) : Positive(w); };
        uint32_t a[2][4];
#pragma unroll
        for (int r = 0; r < 2; ++r) Pairs(x[r], side * kEights + j, a[r]);
        const uint32_t first[4] = {a[0][0], a[1][0], a[0][1], a[1][1]};
        const uint32_t second[4] = {a[0][2], a[1][2], a[0][3], a[1][3]};
        ptx::MmaBf16(s[side], first, part(q_[j].x), part(q_[j].y));
        ptx::MmaBf16(s[side], second, part(q_[j].z), part(q_[j].w));
      }
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float low = s[0][2 * r + i], high = s[1][2 * r + i];
        if constexpr (kBits == 8) {
          low = Scaled(low, scale_min[r].x, q_sum_[0][i]);
          high = Scaled(high, scale_min[r].y, q_sum_[1][i]);
        }
        float best = fmaxf(low + high, -INFINITY);  // NaN counts for nothing
#pragma unroll
        for (int d = 1; d < kPages; d *= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, 4 * d));
        if (g % kPages == 0) write(item * kItemBlocks + (g + 8 * r) / kPages, i, best);
      }
  }

 private:
  static constexpr int kLoads = kDim * kBits / 256;  // of 16 bytes, of a lane and logical page
  static constexpr int kEights = kDim / 32;          // eights of channels, of a lane and side

  // The first channel of a lane's eight: those of a load follow each other.
  static __device__ __forceinline__ int Channel(int eight) {
    constexpr int kOfLoad = 16 / kBits;
    return 32 * kOfLoad * (eight / kOfLoad) + 8 * kOfLoad * (threadIdx.x % 4) +
           8 * (eight % kOfLoad);
  }
  // The four pairs of a lane's eight, of minima and then of maxima.
  static __device__ __forceinline__ void Pairs(const uint4 (&x)[kLoads], int eight,
                                               uint32_t (&out)[4]) {
    if constexpr (kBits == 16) {
      out[0] = x[eight].x, out[1] = x[eight].y, out[2] = x[eight].z, out[3] = x[eight].w;
    } else {
      const uint4 both = x[eight / 2];
      Expand8(eight % 2 ? both.z : both.x, &out[0], &out[1]);
      Expand8(eight % 2 ? both.w : both.y, &out[2], &out[3]);
    }
  }
  // q.(s c + m) from q.(c - bias), where sum is that of q.
  static __device__ __forceinline__ float Scaled(float dot, uint32_t scale_min, float sum) {
    const float2 v = UnpackBf16(scale_min);
    return fmaf(v.x, fmaf(kBias<8, true>, sum, dot), v.y * sum);
  }

  static __device__ __forceinline__ uint32_t Negative(uint32_t pair) {
    const __nv_bfloat162 x =
        __hmin2(reinterpret_cast<const __nv_bfloat162&>(pair), __nv_bfloat162{});
    return reinterpret_cast<const uint32_t&>(x);
  }
  static __device__ __forceinline__ uint32_t Positive(uint32_t pair) {
    const __nv_bfloat162 x =
        __hmax2(reinterpret_cast<const __nv_bfloat162&>(pair), __nv_bfloat162{});
    return reinterpret_cast<const uint32_t&>(x);
  }

  const DevicePool& pool_;
  const int32_t* const table_;
  const std::byte* const stats_;
  uint4 q_[kEights];   // of head g
  float q_sum_[2][2];  // 8 bits: of negative and positive numbers of heads 2t and 2t + 1
};

}  // namespace lserve::cuda
