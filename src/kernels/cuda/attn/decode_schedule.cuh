// The schedule of a decode launch, made by a warp of every thread block; decode_schedule.h says
// what it is.
#pragma once

#include "kernels/cuda/attn/decode_schedule.h"

namespace lserve::cuda {

// By one warp. `prefixes`: room for two arrays of num_tiles + 1.
__device__ __forceinline__ void MakeSchedule(const int* counts, int num_tiles, bool deterministic,
                                             int grid, int lead, int* prefixes,
                                             DecodeSchedule* schedule) {
  const int lane = threadIdx.x % 32;
  int total = 0, filled = 0, parts = 0;
#pragma unroll 1
  for (int i = lane; i < num_tiles; i += 32) {
    int units[2];
    DecodeSchedule::Units(counts[i], true, false, lead, units);
    total += counts[i], filled += counts[i] > 0, parts += units[1];
  }
  total = __reduce_add_sync(~0u, total), filled = __reduce_add_sync(~0u, filled);
  deterministic |= static_cast<int>(__reduce_add_sync(~0u, parts)) <= grid;
  const bool second = DecodeSchedule::Second(total, grid);
  int before[2] = {};
#pragma unroll 1
  for (int base = 0; base < num_tiles; base += 32) {
    const int i = base + lane;
    int units[2];
    DecodeSchedule::Units(i < num_tiles ? counts[i] : 0, deterministic, second, lead, units);
#pragma unroll
    for (int line = 0; line < 2; ++line) {
      int* prefix = prefixes + line * (num_tiles + 1);
      if (line == 1 ? !second && !deterministic : deterministic) {  // empty
        if (i < num_tiles) prefix[i] = 0;
        continue;
      }
      int sum = units[line];
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += other;
      }
      if (i < num_tiles) prefix[i] = before[line] + sum - units[line];
      before[line] += __shfl_sync(~0u, sum, 31);
    }
  }
  if (lane < 2) prefixes[lane * (num_tiles + 1) + num_tiles] = before[lane];
  __syncwarp();
  schedule->counts = counts, schedule->num_tiles = num_tiles;
  schedule->deterministic = deterministic;
  schedule->Cut(prefixes, grid, filled, lead);
}

// Blocks that tiles[first + stride i] list, for i = lane and lane + 32 ...: each warp calls it with
// its own tiles; store(tile, blocks) is called by one lane. Two rounds of loads, however many tiles
// a warp has.
template <class Store>
__device__ __forceinline__ void CountBlocks(const Tile* tiles, const Run* runs, int num_tiles,
                                            int first, int stride, Store store) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int base = first; base < num_tiles; base += 32 * stride) {
    const int mine = base + lane * stride;
    const Tile& tile = tiles[min(mine, num_tiles - 1)];  // three loads at once, no branch
    const int q_len = tile.q_len, begin = tile.run_begin, last = tile.run_end;
    const int end = mine < num_tiles && q_len > 0 ? last : begin;
    constexpr int kTogether = 8;
#pragma unroll 1
    for (int i = 0; i < 32 && base + i * stride < num_tiles; i += kTogether) {
      int sum[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        const int b = __shfl_sync(~0u, begin, (i + k) % 32) + lane;
        const int e = __shfl_sync(~0u, end, (i + k) % 32);
        sum[k] = (b < e ? runs[b].count : 0) + (b + 32 < e ? runs[b + 32].count : 0);
      }
      const int longest = __reduce_max_sync(~0u, end - begin);
#pragma unroll 1
      for (int at = 64; at < longest; at += 32)
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          const int r = __shfl_sync(~0u, begin, (i + k) % 32) + lane + at;
          if (r < __shfl_sync(~0u, end, (i + k) % 32)) sum[k] += runs[r].count;
        }
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        const int tile = base + (i + k) * stride;
        const int total = __reduce_add_sync(~0u, sum[k]);
        if (lane == 0 && i + k < 32 && tile < num_tiles) store(tile, total);
      }
    }
  }
}

}  // namespace lserve::cuda
