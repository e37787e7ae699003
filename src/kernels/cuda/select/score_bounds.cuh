// Scores of blocks by the best upper bound of their logical pages. A score is a product of two
// vectors of 2 D numbers,
//     S = sum_i max(q_i min_i, q_i max_i) = sum_i min(q_i, 0) min_i + max(q_i, 0) max_i,
// so 16 logical pages times up to 8 query heads is a product on tensor units whose A operand are
// the statistics as they lie in memory: each is read once, 16 bytes a lane, for all heads. A warp
// scores the blocks of 16 logical pages.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/args.h"
#include "kernels/cuda/ptx/warp_mma.cuh"

namespace lserve::cuda {

// kDim channels, kPages logical pages of a block.
template <int kDim, int kPages>
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
        stats_(pool_.stats + args.view.head_rank[kv_head] * (kPages * 2 * kDim)) {}

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
#pragma unroll
    for (int j = 0; j < kLoads / 2; ++j)
      q_[j] =
          have ? *reinterpret_cast<const uint4*>(row + 32 * j + 8 * (threadIdx.x % 4)) : uint4{};
  }

  // Calls query() before it needs the query, and write(block, i, Put's values of head 2t + i) for
  // each block of the item, some beyond the last.
  template <class Query, class Write>
  __device__ __forceinline__ void Run(int item, const Place& place, Query query, Write write) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 x[2][kLoads];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint16_t* from = stats_ + place.page[r] * pool_.stats_page_elements +
                             (g + 8 * r) % kPages * (2 * kDim) + 8 * t;
#pragma unroll
      for (int j = 0; j < kLoads; ++j)
        x[r][j] = __ldcs(reinterpret_cast<const uint4*>(from + 32 * j));
    }
    query();
    float s[2][4] = {};
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const uint4 y = q_[j % (kLoads / 2)];
      const auto part = [&](uint32_t w) { return j < kLoads / 2 ? Negative(w) : Positive(w); };
      const uint32_t even[4] = {x[0][j].x, x[1][j].x, x[0][j].y, x[1][j].y};
      const uint32_t odd[4] = {x[0][j].z, x[1][j].z, x[0][j].w, x[1][j].w};
      ptx::MmaBf16(s[0], even, part(y.x), part(y.y));
      ptx::MmaBf16(s[1], odd, part(y.z), part(y.w));
    }
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // An empty logical page gives NaN or -infinity, and counts for nothing.
        float best = fmaxf(s[0][2 * r + i] + s[1][2 * r + i], -INFINITY);
#pragma unroll
        for (int d = 1; d < kPages; d *= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, 4 * d));
        if (g % kPages == 0) write(item * kItemBlocks + (g + 8 * r) / kPages, i, best);
      }
  }

 private:
  static constexpr int kLoads = kDim / 16;  // of 16 bytes, of a lane and logical page

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
  const uint16_t* const stats_;
  uint4 q_[kLoads / 2];  // of head g: 8 channels from 32 j + 8 t
};

}  // namespace lserve::cuda
