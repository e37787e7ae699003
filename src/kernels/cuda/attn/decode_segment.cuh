// What the copying and the computing warps of the decode kernel share, and the end of a segment:
// the warps' results become one, the output or a partial result (decode_merge.cuh merges those).
//
// Partial results: [slot][8 n_tiles rows][D] floats, O divided by the sum of weights, and
// [slot][8 n_tiles] log2 of that sum (-infinity: nothing seen).
//
// Code that runs once a launch costs its fetching: what follows is written to be short rather than
// unrolled.
#pragma once

#include "kernels/cuda/args.h"
#include "kernels/cuda/attn/decode_block.cuh"
#include "kernels/cuda/attn/decode_schedule.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/bulk_copy.cuh"

namespace lserve::cuda {

inline constexpr int kHalves = 2;  // warps of different tokens of a block
// Computing warps: as many as registers allow with one that copies, and row groups divide.
template <class C>
inline constexpr int kComputeWarps = C::kTiles == 1 ? 10 : 8;
template <class C>
inline constexpr int kDecodeThreads = 32 * (kComputeWarps<C> + 1);
inline constexpr int kMaxStages = 32;
inline constexpr int kQueue = 4;         // segments ahead
inline constexpr int kFewTiles = 9 * 8;  // tiles up to which every thread block counts for itself
inline constexpr int kMostTiles = 1 << 14;  // of a launch; shared memory allows no more either
inline constexpr int kMostPending = 16;     // partial results that a thread block has not announced
inline constexpr int kMergeChannels = 64;   // that a warp merges, two a lane

// Zero between launches: launches on one device must not overlap in time.
namespace {
__device__ unsigned shares_taken;
__device__ int segments_done[kMostTiles];  // of each tile
}  // namespace

struct DecodeParams {
  DecodeArgs args;
  float scale;  // args.scale in units of log 2
  int group;    // query heads of a KV head
  int rows, n_tiles, row_groups;
  int stages;
  const int* counts;  // [num_tiles] blocks listed; null: count
  int tile_lead;      // what a tile costs beside its blocks, in blocks
  float* lse;         // of partial results
  float* partial;
};

// A place in a ring: `number` counts all, stage = number mod size, phase = number / size mod 2.
struct Ring {
  int stage = 0, number = 0;
  uint32_t phase = 0;
  __device__ void Advance(int n, int size) {
    number += n, stage += n;
    if (stage < size) return;
    if (stage < 2 * size) {
      stage -= size, phase ^= 1;
    } else {
      phase ^= stage / size & 1, stage %= size;
    }
  }
};

struct BlockInfo {
  int32_t block, masked;
  int32_t number;  // of the block in the ring; written last
};

// What computing warps are told to do; segment.tile -1: to end.
struct Order {
  Tile tile;
  Segment segment;
};

// A tile of several segments, where its partial results are.
struct SplitTile {
  int tile;
  TileSlots slots;
};

// Floats from row to row of what a warp computed; a few more than a row has spread the banks.
template <class C>
inline constexpr int kMergeRow = C::kDim + 2;

// Shared memory after stages and queries.
template <class C>
struct DecodeShared {
  float merge[kComputeWarps<C>][8][kMergeRow<C>];
  float max[kComputeWarps<C>][16], sum[kComputeWarps<C>][16], offset[kComputeWarps<C>][16];
  BlockInfo info[kMaxStages];
  Tile tiles[kFewTiles];  // where there are no more
  Order orders[kQueue];
  SplitTile split[2 * kMostPending];  // of the segments with partial results, a ring
  SplitTile due[kMostPending];        // to be merged
  int num_due;
  uint64_t full[kMaxStages], empty[kMaxStages];
  uint64_t queued[kQueue], taken[kQueue];
};

// Bytes of a query row in shared memory; 16 more than it has keep rows on different banks.
template <class C>
inline constexpr int kQueryBytes = 2 * C::kDim + 16;

template <class C>
__device__ __forceinline__ void ComputeBarrier() {
  __syncwarp();
  ptx::NamedBarrier(1, 32 * kComputeWarps<C>);
}

// Channels [channel, channel + 2) of a row, and with the first of them its log-sum-exp -> the
// output.
__device__ __forceinline__ void StoreRow(const DecodeParams& p, const Tile& tile, int row,
                                         int channel, float2 o, float log2_sum) {
  const int heads = p.args.shape.heads_per_tile;
  const int q = tile.q_len == 1 ? 0 : row / heads;
  const int64_t token = tile.q_begin + q, head = tile.head + row - q * heads;
  *reinterpret_cast<uint32_t*>(p.args.out + token * p.args.out_stride +
                               head * p.args.view.codec.dim + channel) = PackBf16(o.x, o.y);
  if (p.args.lse != nullptr && channel == 0)
    p.args.lse[token * p.args.shape.num_q_heads + head] = log2_sum * 0.69314718f;
}

__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  return x;
}

// Merges the warps of each row group and writes the segment's result. By all computing warps.
template <class C>
__device__ __forceinline__ void FinishSegment(const DecodeParams& p, const Tile& tile,
                                              const Segment& segment, DecodeShared<C>* shared,
                                              DecodeState<C>* st) {
  static_assert(kComputeWarps<C> <= 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4, g = lane / 4;
  const int rows = tile.q_len * p.args.shape.heads_per_tile;
  const int warps = kComputeWarps<C> / p.row_groups;                     // of a row group
  const int busy = min(warps, kHalves * (segment.end - segment.begin));  // that had a block
#pragma unroll
  for (int n = 0; n < C::kTiles; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int d = 4; d < 32; d *= 2) {
        st->sum[n][j] += __shfl_xor_sync(~0u, st->sum[n][j], d);
        st->offset[n][j] += __shfl_xor_sync(~0u, st->offset[n][j], d);
      }
      if (g == 0) {
        const int i = 8 * n + 2 * t + j;
        shared->max[warp][i] = st->max[n][j];
        shared->sum[warp][i] = st->sum[n][j];
        shared->offset[warp][i] = st->offset[n][j];
      }
    }
  static_assert(C::kDim % kMergeChannels == 0);
  constexpr int kParts = C::kDim / kMergeChannels;  // of a row
#pragma unroll
  for (int n = 0; n < C::kTiles; ++n) {
    float* own = shared->merge[warp][0];
    if (8 * (warp / warps * C::kTiles + n) + 2 * t < rows)
#pragma unroll
      for (int m = 0; m < C::kSteps; ++m)
#pragma unroll
        for (int j = 0; j < 2; ++j)
          *reinterpret_cast<float2*>(own + (2 * t + j) * kMergeRow<C> +
                                     RowChannel<C::kPieceChannels>(m, g)) =
              make_float2(st->o[n][m][j], st->o[n][m][2 + j]);
    ComputeBarrier<C>();
    // A warp a part of a row.
#pragma unroll 1
    for (int i = warp; i < 8 * kParts * p.row_groups; i += kComputeWarps<C>) {
      const int r = i / kParts % 8, row_group = i / (8 * kParts), first = row_group * warps;
      const int row = 8 * (row_group * C::kTiles + n) + r;
      const int channel = i % kParts * kMergeChannels + 2 * lane;
      if (row >= rows) continue;  // padding
      const int from = first + min(lane, busy - 1);
      const float max = lane < busy ? shared->max[from][8 * n + r] : -INFINITY, top = WarpMax(max);
      const float weight = max > -INFINITY ? ptx::Exp2(max - top) : 0.0f;
      const float sum = WarpSum(weight * shared->sum[from][8 * n + r]);
      const float offset = WarpSum(weight * shared->offset[from][8 * n + r]);
      float2 o{};
#pragma unroll 2
      for (int w = 0; w < busy; ++w) {
        const float scale = __shfl_sync(~0u, weight, w);
        const float2 v = *reinterpret_cast<const float2*>(&shared->merge[first + w][r][channel]);
        o.x = fmaf(scale, v.x, o.x), o.y = fmaf(scale, v.y, o.y);
      }
      const float inverse = sum > 0 ? __fdividef(1.0f, sum) : 0.0f;
      o.x = (o.x + offset) * inverse, o.y = (o.y + offset) * inverse;
      const float log2_sum = sum > 0 ? top + __log2f(sum) : -INFINITY;
      if (segment.slot < 0) {
        StoreRow(p, tile, row, channel, o, log2_sum);
      } else {
        const int64_t at = static_cast<int64_t>(segment.slot) * 8 * p.n_tiles + row;
        *reinterpret_cast<float2*>(p.partial + at * C::kDim + channel) = o;
        if (channel == 0) p.lse[at] = log2_sum;
      }
    }
    ComputeBarrier<C>();
  }
}

}  // namespace lserve::cuda
