// What the copying and the computing warps of the decode kernel share, and the end of a segment:
// the warps' results become one, the output or a partial result.
//
// Partial results: [slot][n tile][m tile][lane] float4, the C operand of O^T divided by the sum of
// weights, and [slot][8 n tiles] log2 of that sum (-infinity: nothing seen).
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

// Zero between launches: launches on one device must not overlap in time.
namespace {
__device__ unsigned shares_taken;
}  // namespace

struct DecodeParams {
  DecodeArgs args;
  float scale;  // args.scale in units of log 2
  int group;    // query heads of a KV head
  int rows, n_tiles, row_groups;
  int stages;
  const int* counts;  // [num_tiles] blocks listed; null: count
  Line* lines;        // [2] for the merge of partial results, and
  int* prefixes;      // [2][num_tiles + 1]
  float* lse;         // of partial results
  float4* partial;
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

// Shared memory after stages and queries.
template <class C>
struct DecodeShared {
  float4 merge[kComputeWarps<C>][C::kSteps][32];
  float max[kComputeWarps<C>][16], sum[kComputeWarps<C>][16], offset[kComputeWarps<C>][16];
  BlockInfo info[kMaxStages];
  Tile tiles[kFewTiles];  // where there are no more
  Order orders[kQueue];
  uint64_t full[kMaxStages], empty[kMaxStages];
  uint64_t queued[kQueue], taken[kQueue];
};

// Bytes of a query row in shared memory; 16 more than it has keep rows on different banks.
template <class C>
inline constexpr int kQueryBytes = 2 * C::kDim + 16;

template <class C>
__device__ __forceinline__ void ComputeBarrier() {
  ptx::NamedBarrier(1, 32 * kComputeWarps<C>);
}

// Two channels of two rows, 2t and 2t + 1 of an n tile, in C's layout -> the output.
__device__ __forceinline__ void StoreRows(const DecodeParams& p, const Tile& tile, int n_tile,
                                          int channel, const float (&o)[4]) {
  const int heads = p.args.shape.heads_per_tile, t = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int row = 8 * n_tile + 2 * t + j;
    if (row >= tile.q_len * heads) continue;
    const int64_t token = tile.q_begin + row / heads, head = tile.head + row % heads;
    *reinterpret_cast<uint32_t*>(p.args.out + token * p.args.out_stride +
                                 head * p.args.view.codec.dim + channel) = PackBf16(o[j], o[2 + j]);
  }
}
__device__ __forceinline__ void StoreLse(const DecodeParams& p, const Tile& tile, int row,
                                         float log2_sum) {
  const int heads = p.args.shape.heads_per_tile;
  if (p.args.lse == nullptr || row >= tile.q_len * heads) return;
  p.args.lse[static_cast<int64_t>(tile.q_begin + row / heads) * p.args.shape.num_q_heads +
             tile.head + row % heads] = log2_sum * 0.69314718f;
}

// Merges the warps of each row group and writes the segment's result. By all computing warps.
template <class C>
__device__ __forceinline__ void FinishSegment(const DecodeParams& p, const Tile& tile,
                                              const Segment& segment, DecodeShared<C>* shared,
                                              DecodeState<C>* st) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4, g = lane / 4;
  const int rows = tile.q_len * p.args.shape.heads_per_tile;
  const int warps = kComputeWarps<C> / p.row_groups;  // of a row group
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
#pragma unroll
  for (int n = 0; n < C::kTiles; ++n) {
#pragma unroll
    for (int m = 0; m < C::kSteps; ++m)
      shared->merge[warp][m][lane] =
          make_float4(st->o[n][m][0], st->o[n][m][1], st->o[n][m][2], st->o[n][m][3]);
    ComputeBarrier<C>();
#pragma unroll 1
    for (int i = warp; i < C::kSteps * p.row_groups; i += kComputeWarps<C>) {
      const int m = i % C::kSteps, row_group = i / C::kSteps, first = row_group * warps;
      const int n_tile = row_group * C::kTiles + n;
      if (8 * n_tile + 2 * t >= rows) continue;  // padding
      float max[2] = {-INFINITY, -INFINITY}, sum[2] = {}, offset[2] = {}, o[4] = {};
#pragma unroll 2
      for (int w = first; w < first + warps; ++w)
#pragma unroll
        for (int j = 0; j < 2; ++j) max[j] = fmaxf(max[j], shared->max[w][8 * n + 2 * t + j]);
#pragma unroll 1
      for (int w = first; w < first + warps; ++w) {
        const float4 v = shared->merge[w][m][lane];
        const float part[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int c = 8 * n + 2 * t + j;
          const float weight = max[j] == -INFINITY ? 0.0f : ptx::Exp2(shared->max[w][c] - max[j]);
          sum[j] = fmaf(weight, shared->sum[w][c], sum[j]);
          offset[j] = fmaf(weight, shared->offset[w][c], offset[j]);
          o[j] = fmaf(weight, part[j], o[j]);
          o[2 + j] = fmaf(weight, part[2 + j], o[2 + j]);
        }
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float inverse = sum[j] > 0 ? 1.0f / sum[j] : 0.0f;
        o[j] = (o[j] + offset[j]) * inverse, o[2 + j] = (o[2 + j] + offset[j]) * inverse;
        if (m > 0 || g > 0) continue;
        const int row = 8 * n_tile + 2 * t + j;
        const float log2_sum = sum[j] > 0 ? max[j] + __log2f(sum[j]) : -INFINITY;
        if (segment.slot < 0)
          StoreLse(p, tile, row, log2_sum);
        else
          p.lse[static_cast<int64_t>(segment.slot) * 8 * p.n_tiles + row] = log2_sum;
      }
      if (segment.slot < 0)
        StoreRows(p, tile, n_tile, RowChannel<C::kPieceChannels>(m, g), o);
      else
        p.partial[((static_cast<int64_t>(segment.slot) * p.n_tiles + n_tile) * C::kSteps + m) * 32 +
                  lane] = make_float4(o[0], o[1], o[2], o[3]);
    }
    ComputeBarrier<C>();
  }
}

}  // namespace lserve::cuda
