// How the blocks of all tiles are cut over the thread blocks of a decode launch. The host knows
// capacities only, so every thread block derives its share from the plan, in integers, the same
// way: repeatable, no atomics.
//
//   equal shares   The lists of all tiles, one after the other, are a line of T blocks; thread
//                  block c takes [c T / G, (c + 1) T / G). A tile's part of thread block c has
//                  slot tile + c, which is unique: both only grow along the line.
//   deterministic  A list is cut every PartBlocks(its length) blocks, whatever else is in the
//                  batch; part u of the launch goes to thread block u mod G and has slot u.
//
// A unit is a block in the first mode, a part in the second. Parts of a tile are merged in order
// (decode_combine.cu); a tile with one part is written at once.
#pragma once

#include <cstdint>

#include "plan/tile.h"

namespace lserve::cuda {

inline constexpr int kMaxParts = 32;  // of a list, deterministic

// Short lists are cut finely, for one sequence has few of them and there are many processors.
__host__ __device__ inline int PartBlocks(int blocks) {
  if (blocks <= 4 * kMaxParts) return 4;
  const int even = (blocks + kMaxParts - 1) / kMaxParts;
  return even < 16 ? 16 : even;
}

struct Segment {
  int tile;
  int begin, end;  // of the tile's list
  int slot;        // where a partial result goes; -1: the tile has no other part
};

struct DecodeSchedule {
  const int* counts;  // [num_tiles] blocks listed
  const int* prefix;  // [num_tiles + 1] units before each tile
  int num_tiles;
  bool deterministic;

  __device__ int Units() const { return prefix[num_tiles]; }
  // Thread blocks that get work in equal shares: each at least one block.
  __device__ int Shares(int grid) const { return Units() < grid ? Units() : grid; }
  // The last tile that begins at or before a unit.
  __device__ int TileOf(int unit) const {
    int low = 0, high = num_tiles;  // prefix[low] <= unit < prefix[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (prefix[middle] <= unit ? low : high) = middle;
    }
    return low;
  }
  __device__ int ShareBegin(int c, int shares) const {
    return static_cast<int>(static_cast<int64_t>(c) * Units() / shares);
  }
  __device__ int ShareOf(int unit, int shares) const {
    return static_cast<int>((static_cast<int64_t>(unit + 1) * shares + Units() - 1) / Units()) - 1;
  }
  // Slots of a tile's parts: [*first, *first + *count).
  __device__ void Parts(int tile, int grid, int* first, int* count) const {
    const int begin = prefix[tile], end = prefix[tile + 1];
    *first = begin, *count = end - begin;
    if (deterministic || end == begin) return;
    const int shares = Shares(grid), c = ShareOf(begin, shares);
    *first = tile + c, *count = ShareOf(end - 1, shares) - c + 1;
  }
};

// The segments of thread block c, in order.
class SegmentWalk {
 public:
  __device__ SegmentWalk(const DecodeSchedule& schedule, int c, int grid)
      : s_(schedule), c_(c), grid_(grid) {
    unit_ = c, end_ = s_.Units();
    if (s_.deterministic) return;
    const int shares = s_.Shares(grid);
    if (c >= shares) {
      unit_ = end_;
      return;
    }
    unit_ = s_.ShareBegin(c, shares), end_ = s_.ShareBegin(c + 1, shares);
    tile_ = s_.TileOf(unit_);
  }
  __device__ bool Next(Segment* out) {
    if (unit_ >= end_) return false;
    if (s_.deterministic) {
      const int tile = s_.TileOf(unit_), blocks = s_.counts[tile], part = PartBlocks(blocks);
      const int begin = (unit_ - s_.prefix[tile]) * part;
      *out = {tile, begin, min(begin + part, blocks), blocks > part ? unit_ : -1};
      unit_ += grid_;
      return true;
    }
    while (s_.prefix[tile_ + 1] <= unit_) ++tile_;
    const int first = s_.prefix[tile_], last = s_.prefix[tile_ + 1];
    const int end = min(last, end_);
    const bool whole = unit_ == first && end == last;
    *out = {tile_, unit_ - first, end - first, whole ? -1 : tile_ + c_};
    unit_ = end;
    return true;
  }

 private:
  const DecodeSchedule& s_;
  int c_, grid_, unit_, end_, tile_ = 0;
};

// Blocks that tiles[first + stride i] list, for i = lane and lane + 32 ...: each warp calls it with
// its own tiles; store(tile, blocks) is called by one lane. Two rounds of loads, however many tiles
// a warp has.
template <class Store>
__device__ __forceinline__ void CountBlocks(const Tile* tiles, const Run* runs, int num_tiles,
                                            int first, int stride, Store store) {
  const int lane = threadIdx.x % 32;
  for (int base = first; base < num_tiles; base += 32 * stride) {
    const int mine = base + lane * stride;
    int begin = 0, end = 0;
    if (mine < num_tiles && tiles[mine].q_len > 0)
      begin = tiles[mine].run_begin, end = tiles[mine].run_end;
    constexpr int kTogether = 8;
    for (int i = 0; i < 32 && base + i * stride < num_tiles; i += kTogether) {
      int sum[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        const int b = __shfl_sync(~0u, begin, (i + k) % 32) + lane;
        const int e = __shfl_sync(~0u, end, (i + k) % 32);
        sum[k] = (b < e ? runs[b].count : 0) + (b + 32 < e ? runs[b + 32].count : 0);
        for (int r = b + 64; r < e; r += 32) sum[k] += runs[r].count;
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

// prefix[i] = sum of units of counts[0 .. i), by the whole thread block (kThreads threads). Ends
// with a barrier.
template <int kThreads>
__device__ __forceinline__ void ScanUnits(const int* counts, int num_tiles, bool deterministic,
                                          int* prefix) {
  __shared__ int warp_sum[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int each = (num_tiles + kThreads - 1) / kThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * each, num_tiles);
  const int end = min(begin + each, num_tiles);
  const auto units = [&](int i) {
    const int n = counts[i];
    if (!deterministic) return n;
    const int part = PartBlocks(n);
    return (n + part - 1) / part;
  };
  int sum = 0;
  for (int i = begin; i < end; ++i) sum += units(i);
  int before = sum;  // inclusive over the warp
  for (int d = 1; d < 32; d *= 2) {
    const int other = __shfl_up_sync(~0u, before, d);
    if (lane >= d) before += other;
  }
  if (lane == 31) warp_sum[warp] = before;
  __syncthreads();
  before -= sum;
  for (int w = 0; w < warp; ++w) before += warp_sum[w];
  for (int i = begin; i < end; ++i) {
    prefix[i] = before;
    before += units(i);
  }
  if (begin < end && end == num_tiles) prefix[num_tiles] = before;
  __syncthreads();
}

}  // namespace lserve::cuda
