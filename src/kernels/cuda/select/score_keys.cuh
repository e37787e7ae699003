// Scores of blocks by their best key: q.k of all 64 keys for up to 8 query heads, on tensor units
// straight from the page. A warp scores a block.
//
// S^T = K Q^T: keys are the rows of A. A page holds K as [D / 2][64][2] (plan/kv_codec.h), so a
// lane's share of one channel pair is 8 tokens in one or two loads, and which of the 64 rows of the
// four m tiles they stand for does not matter to a maximum. Codes meet q as they are; scale and
// minimum of a token follow: q.(s c + m) = s q.c + m sum(q).
//
// A block's last keys speak for the next one too (`reach`, kernels/ops.h): a score is a pair, the
// best of a block's keys and the best of those in front that reach into it.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/args.h"
#include "kernels/cuda/kv/codes.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/warp_mma.cuh"

namespace lserve::cuda {

// kDim channels, keys of kBits bits.
template <int kDim, int kBits>
class KeyScore {
 public:
  static constexpr int kItemBlocks = 1;

  // Two threads write a pair, each its part.
  using Value = float2;
  static __device__ __forceinline__ void Put(Value* list, int blocks, int block, float best,
                                             float tail) {
    list[block].x = best;
    if (block == 0) list[0].y = -INFINITY;
    if (block + 1 < blocks) list[block + 1].y = tail;
  }
  static __device__ __forceinline__ float Read(const Value* at) {
    const float2 value = __ldcg(at);
    return fmaxf(value.x, value.y);
  }

  __device__ __forceinline__ KeyScore(const SelectLaunch& args, const DecodeRow& row, int kv_head)
      : pool_(args.view.pools[args.view.head_class[kv_head]]),
        table_(pool_.table + row.slot * pool_.table_stride + row.sink_blocks),
        slices_(pool_.pages + args.view.head_rank[kv_head] * args.view.codec.slice_bytes),
        scale_offset_(args.view.codec.k_scale_offset),
        first_reaching_(kBlockTokens - args.reach) {}

  struct Place {
    int page;
  };
  __device__ __forceinline__ Place Find(int item, int) const { return {__ldcg(table_ + item)}; }

  // `row`: the query of head g, unless there are fewer heads.
  __device__ __forceinline__ void LoadQuery(const Bf16* row, bool have) {
    const int t = threadIdx.x % 4;
    float sum = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t x = have ? *reinterpret_cast<const uint32_t*>(row + 16 * step + 2 * t) : 0;
      const uint32_t y = have ? *reinterpret_cast<const uint32_t*>(row + 16 * step + 2 * t + 8) : 0;
      const float2 xf = UnpackBf16(x), yf = UnpackBf16(y);
      sum += (xf.x + xf.y) + (yf.x + yf.y);
      // Expand4 pairs the first channels of two channel pairs, then the second ones.
      q_[step][0] = kBits == 4 ? __byte_perm(x, y, 0x5410) : x;
      q_[step][1] = kBits == 4 ? __byte_perm(x, y, 0x7632) : y;
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    q_sum_[0] = __shfl_sync(~0u, sum, 8 * t);
    q_sum_[1] = __shfl_sync(~0u, sum, 8 * t + 4);
  }

  // See BoundScore.
  template <class Query, class Write>
  __device__ __forceinline__ void Run(int item, const Place& place, Query query, Write write) {
    query();
    const std::byte* slice = slices_ + place.page * pool_.page_bytes;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // Token n of this lane, 0 to 7: row g (even) or g + 8 (odd) of m tile n / 2.
    const auto token = [&](int n) {
      return kBits == 16 ? 32 * (n / 4) + 4 * g + n % 4 : 8 * g + n;
    };
    float s[4][4] = {};
    constexpr int kTogether = kBits == 16 ? 4 : 8;  // steps whose loads are in flight
#pragma unroll
    for (int begin = 0; begin < kSteps; begin += kTogether) {
      constexpr int kNow = kTogether < kSteps ? kTogether : kSteps;
      uint32_t x[kNow][2][kLoads * kWords];
#pragma unroll
      for (int i = 0; i < kNow; ++i)
#pragma unroll
        for (int p = 0; p < 2; ++p)
#pragma unroll
          for (int l = 0; l < kLoads; ++l)
            Load(slice + ((8 * (begin + i) + t + 4 * p) * kBlockTokens + token(4 * l)) * kBits / 4,
                 &x[i][p][l * kWords]);
#pragma unroll
      for (int i = 0; i < kNow; ++i) {
        uint32_t a[4][4];
        Expand(x[i], a);
#pragma unroll
        for (int m = 0; m < 4; ++m) ptx::MmaBf16(s[m], a[m], q_[begin + i][0], q_[begin + i][1]);
      }
    }
    float best[2] = {-INFINITY, -INFINITY}, tail[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float scale = 1, min = 0;
      if constexpr (kBits < 16) {
        const std::byte* at = slice + scale_offset_ + 2 * token(n);
        scale = __half2float(*reinterpret_cast<const __half*>(at));
        min = fmaf(scale, kBias<kBits, true>,
                   __half2float(*reinterpret_cast<const __half*>(at + 2 * kBlockTokens)));
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float score = fmaf(scale, s[n / 2][2 * (n % 2) + i], min * q_sum_[i]);
        best[i] = fmaxf(best[i], score);
        if (token(n) >= first_reaching_) tail[i] = fmaxf(tail[i], score);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int d = 4; d < 32; d *= 2) {
        best[i] = fmaxf(best[i], __shfl_xor_sync(~0u, best[i], d));
        tail[i] = fmaxf(tail[i], __shfl_xor_sync(~0u, tail[i], d));
      }
      if (g == 0) write(item, i, best[i], tail[i]);
    }
  }

 private:
  static constexpr int kSteps = kDim / 16;            // of 16 channels
  static constexpr int kLoads = kBits == 16 ? 2 : 1;  // of 8 tokens of a channel pair
  static constexpr int kWords = kBits / 2 / kLoads;   // of a load

  static __device__ __forceinline__ void Load(const std::byte* from, uint32_t* to) {
    if constexpr (kWords == 4) {
      const uint4 v = __ldcs(reinterpret_cast<const uint4*>(from));
      to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else {
      const uint2 v = __ldcs(reinterpret_cast<const uint2*>(from));
      to[0] = v.x, to[1] = v.y;
    }
  }

  // x[0], x[1]: 8 tokens of channel pairs t and t + 4 of a step; a: the A operands of the m tiles.
  static __device__ __forceinline__ void Expand(const uint32_t (&x)[2][kLoads * kWords],
                                                uint32_t (&a)[4][4]) {
    if constexpr (kBits == 16) {
#pragma unroll
      for (int n = 0; n < 8; ++n) a[n / 2][n % 2] = x[0][n], a[n / 2][2 + n % 2] = x[1][n];
    } else if constexpr (kBits == 8) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        Expand8(x[0][i], &a[i][0], &a[i][1]), Expand8(x[1][i], &a[i][2], &a[i][3]);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t out[4][2];
        Expand4<true>(x[0][i], x[1][i], out);
#pragma unroll
        for (int n = 0; n < 4; ++n)
          a[2 * i + n / 2][n % 2] = out[n][0], a[2 * i + n / 2][2 + n % 2] = out[n][1];
      }
    }
  }

  const DevicePool& pool_;
  const int32_t* const table_;
  const std::byte* const slices_;
  const int scale_offset_, first_reaching_;
  uint32_t q_[kSteps][2];  // B operand: head g
  float q_sum_[2];         // of heads 2t and 2t + 1
};

}  // namespace lserve::cuda
