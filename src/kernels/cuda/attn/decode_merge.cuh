// Partial results of a tile become its output. A thread block announces the segments that it has
// ended when it has no more work, all at once; whoever announces a tile's last one merges the tile,
// in the order of the slots: the same bits, whoever it is.
#pragma once

#include "kernels/cuda/attn/decode_segment.cuh"

namespace lserve::cuda {

// A part of a row of a tile. By a warp.
template <class C>
__device__ __forceinline__ void MergeSlots(const DecodeParams& p, const TileSlots& slots,
                                           const Tile& tile, int row, int channel) {
  const int lane = threadIdx.x % 32, parts = slots.Total(), stride = 8 * p.n_tiles;
  const float* from = p.partial + row * C::kDim + channel;
  float2 o{};
  float base = -INFINITY, sum = 0;  // sum: of this lane's parts
#pragma unroll 1
  for (int first = 0; first < parts; first += 32) {
    const int slot = slots.At(min(first + lane, parts - 1)) * stride;
    const float lse = first + lane < parts ? __ldcg(p.lse + slot + row) : -INFINITY;
    const float top = fmaxf(base, WarpMax(lse));
    const float alpha = base > -INFINITY ? ptx::Exp2(base - top) : 0.0f;
    const float weight = lse > -INFINITY ? ptx::Exp2(lse - top) : 0.0f;
    o.x *= alpha, o.y *= alpha;
    sum = fmaf(sum, alpha, weight), base = top;
    const int here = min(32, parts - first);
#pragma unroll 1
    for (int i = 0; i < here; i += 8) {
      float2 v[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) {  // past the end: the last once more, without weight
        const int64_t at = __shfl_sync(~0u, slot, (i + k) % 32);
        v[k] = __ldcg(reinterpret_cast<const float2*>(from + at * C::kDim));
      }
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float w = __shfl_sync(~0u, weight, (i + k) % 32);
        o.x = fmaf(w, v[k].x, o.x), o.y = fmaf(w, v[k].y, o.y);
      }
    }
  }
  sum = WarpSum(sum);
  const float inverse = sum > 0 ? __fdividef(1.0f, sum) : 0.0f;
  StoreRow(p, tile, row, channel, make_float2(o.x * inverse, o.y * inverse),
           sum > 0 ? base + __log2f(sum) : -INFINITY);
}

// Announces the partial results of `count` segments from shared->split[first] on and merges what is
// complete. By all computing warps, after a barrier of theirs.
template <class C>
__device__ __forceinline__ void MergeTiles(const DecodeParams& p, int first, int count,
                                           DecodeShared<C>* shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == 0) {
    SplitTile mine{};
    bool due = false;
    if (lane < count) {
      mine = shared->split[(first + lane) % (2 * kMostPending)];
      due = ptx::AddAcqRel(&segments_done[mine.tile], 1) + 1 == mine.slots.Total();
    }
    if (due) segments_done[mine.tile] = 0;
    const unsigned all = __ballot_sync(~0u, due);
    if (due) shared->due[__popc(all & ((1u << lane) - 1))] = mine;
    if (lane == 0) shared->num_due = __popc(all);
  }
  ComputeBarrier<C>();
  constexpr int kParts = C::kDim / kMergeChannels;  // of a row
  const int each = p.rows * kParts;
  const Tile* tiles = p.args.num_tiles <= kFewTiles ? shared->tiles : p.args.tiles;
#pragma unroll 1
  for (int i = warp; i < shared->num_due * each; i += kComputeWarps<C>) {
    const SplitTile due = shared->due[i / each];
    const Tile& tile = tiles[due.tile];
    const int row = i % each / kParts;
    if (row < tile.q_len * p.args.shape.heads_per_tile)
      MergeSlots<C>(p, due.slots, tile, row, i % kParts * kMergeChannels + 2 * (threadIdx.x % 32));
  }
}

}  // namespace lserve::cuda
