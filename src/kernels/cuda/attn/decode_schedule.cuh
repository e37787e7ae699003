// How the blocks of all tiles are cut over the thread blocks of a decode launch. The host knows
// capacities only, so every thread block derives the same schedule from the plan.
//
// Each thread block reads one share of a first line, and then takes shares of a second line by a
// counter until there are none: memory does not serve all multiprocessors equally fast, and equal
// shares alone leave a tenth and more of them idle at the end. What a share is never depends on who
// takes it, so results are the same run after run.
//
//   usual          The first line holds the first blocks of every list, tile after tile; the second
//                  the last quarter of long lists, when there is enough work. A line of T blocks in
//                  n shares is cut at its (T / n)-th blocks, wherever tiles end.
//   deterministic  The first line is empty. A list is cut every PartBlocks(its length) blocks,
//                  whatever else is in the batch; these parts are the shares of the second line.
//
// A piece of a list that one share holds is a segment; its partial result has a slot. A tile's
// slots are consecutive in each line, and are merged in order. In a line, slot = tile + share: both
// only grow along it, so that no two segments meet.
#pragma once

#include <cstdint>

#include "plan/tile.h"

namespace lserve::cuda {

inline constexpr int kMaxParts = 32;          // of a list, deterministic
inline constexpr int kMostGrid = 160;         // thread blocks
inline constexpr int kSecondShares = 4;       // shares of the second line, a thread block
inline constexpr int kSecondTileShares = 32;  // and a tile, at most: somebody has to merge them
inline constexpr int kSecondFrom = 24;        // blocks a thread block from which there is a second
inline constexpr int kMostSlots = kMostGrid * (1 + kSecondShares);  // of a tile

// Short lists are cut finely, for one sequence has few of them and there are many processors.
__host__ __device__ inline int PartBlocks(int blocks) {
  if (blocks <= 4 * kMaxParts) return 4;
  const int even = (blocks + kMaxParts - 1) / kMaxParts;
  return even < 16 ? 16 : even;
}

// Slots that a launch can need.
inline int64_t DecodeSlots(int64_t num_tiles, bool deterministic) {
  return deterministic ? num_tiles * kMaxParts : 2 * num_tiles + kMostSlots;
}

struct Segment {
  int tile;
  int begin, end;  // of the tile's list
  int slot;        // of the partial result; -1: the tile has no other segment
};

// Slots of a tile in the two lines.
struct TileSlots {
  int first[2], count[2];

  __device__ int Total() const { return count[0] + count[1]; }
  __device__ int At(int i) const { return i < count[0] ? first[0] + i : first[1] + i - count[0]; }
};

// `prefix[num_tiles]` units in `shares` pieces that differ by one at most.
struct Line {
  const int* prefix;  // [num_tiles + 1] units before each tile
  int shares, each, extra, slot;

  __device__ void Cut(const int* units_before, int num_tiles, int pieces, int first_slot) {
    prefix = units_before, slot = first_slot;
    const int total = prefix[num_tiles];
    shares = min(pieces, total);
    each = shares > 0 ? total / shares : 0, extra = total - shares * each;
  }
  __device__ int Begin(int share) const { return share * each + min(share, extra); }
  __device__ int ShareOf(int unit) const {
    const int longer = extra * (each + 1);
    return unit < longer ? unit / (each + 1) : extra + (unit - longer) / each;
  }
  // The last tile that begins at or before a unit.
  __device__ int TileOf(int unit, int num_tiles) const {
    int low = 0, high = num_tiles;  // prefix[low] <= unit < prefix[high]
#pragma unroll 1
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (prefix[middle] <= unit ? low : high) = middle;
    }
    return low;
  }
  __device__ void Slots(int tile, int* first, int* count) const {
    const int begin = prefix[tile], end = prefix[tile + 1];
    *first = *count = 0;
    if (begin == end) return;
    const int share = ShareOf(begin);
    *first = slot + tile + share, *count = ShareOf(end - 1) - share + 1;
  }
};

struct DecodeSchedule {
  const int* counts;  // [num_tiles] blocks listed
  int num_tiles;
  bool deterministic;
  Line lines[2];

  // By one warp. `prefixes`: two arrays of num_tiles + 1.
  __device__ void Make(const int* blocks, int tiles, bool fixed, int grid, int* prefixes) {
    counts = blocks, num_tiles = tiles, deterministic = fixed;
    const int lane = threadIdx.x % 32;
    int total = 0, filled = 0;
#pragma unroll 1
    for (int i = lane; i < tiles; i += 32) total += counts[i], filled += counts[i] > 0;
    total = __reduce_add_sync(~0u, total), filled = __reduce_add_sync(~0u, filled);
    const bool second = total >= kSecondFrom * grid;
    int before[2] = {};
#pragma unroll 1
    for (int base = 0; base < tiles; base += 32) {
      const int i = base + lane, n = i < tiles ? counts[i] : 0;
      int units[2];
      if (deterministic) {
        const int part = PartBlocks(n);
        units[0] = 0, units[1] = (n + part - 1) / part;
      } else {
        units[1] = second ? SecondBlocks(n) : 0, units[0] = n - units[1];
      }
#pragma unroll
      for (int line = 0; line < 2; ++line) {
        if (line == 1 ? !second && !deterministic : deterministic) {  // empty
          if (i < tiles) prefixes[line * (tiles + 1) + i] = 0;
          continue;
        }
        int sum = units[line];
        for (int d = 1; d < 32; d *= 2) {
          const int other = __shfl_up_sync(~0u, sum, d);
          if (lane >= d) sum += other;
        }
        if (i < tiles) prefixes[line * (tiles + 1) + i] = before[line] + sum - units[line];
        before[line] += __shfl_sync(~0u, sum, 31);
      }
    }
    if (lane < 2) prefixes[lane * (tiles + 1) + tiles] = before[lane];
    __syncwarp();
    lines[0].Cut(prefixes, tiles, grid, 0);
    const int* units = prefixes + tiles + 1;
    if (deterministic)  // a share a part, slots from 0
      lines[1].prefix = units, lines[1].shares = before[1];
    else
      lines[1].Cut(
          units, tiles,
          max(1, min(min(kSecondShares * grid, kSecondTileShares * filled), before[1] / 2)),
          tiles + grid);
  }
  __device__ TileSlots Slots(int tile) const {
    TileSlots s{};
    if (deterministic) {
      s.first[1] = lines[1].prefix[tile];
      s.count[1] = lines[1].prefix[tile + 1] - s.first[1];
    } else {
      lines[0].Slots(tile, &s.first[0], &s.count[0]);
      lines[1].Slots(tile, &s.first[1], &s.count[1]);
    }
    return s;
  }

 private:
  __device__ static int SecondBlocks(int n) { return n >= 16 ? n / 4 : 0; }
};

// The segments of one share after the other.
class SegmentWalk {
 public:
  __device__ SegmentWalk(const DecodeSchedule& schedule) : s_(schedule) {}
  __device__ void Start(int line, int share) {
    line_ = line, share_ = share, l_ = line == 0 ? s_.lines[0] : s_.lines[1];
    unit_ = end_ = 0;
    if (share >= l_.shares) return;
    unit_ = s_.deterministic ? share : l_.Begin(share);
    end_ = s_.deterministic ? share + 1 : l_.Begin(share + 1);
    tile_ = l_.TileOf(unit_, s_.num_tiles);
  }
  __device__ bool Next(Segment* out) {
    if (unit_ >= end_) return false;
    if (s_.deterministic) {
      const int blocks = s_.counts[tile_], part = PartBlocks(blocks);
      const int begin = (share_ - l_.prefix[tile_]) * part;
      *out = {tile_, begin, min(begin + part, blocks), blocks > part ? share_ : -1};
      unit_ = end_;
      return true;
    }
#pragma unroll 1
    while (l_.prefix[tile_ + 1] <= unit_) ++tile_;
    // The second line's part of a list begins where the first one's ends.
    const int first = l_.prefix[tile_], to = min(end_, l_.prefix[tile_ + 1]);
    const int offset = line_ == 0 ? 0 : s_.lines[0].prefix[tile_ + 1] - s_.lines[0].prefix[tile_];
    const bool whole = to - unit_ == s_.counts[tile_];
    *out = {tile_, offset + unit_ - first, offset + to - first,
            whole ? -1 : l_.slot + tile_ + share_};
    unit_ = to;
    return true;
  }

 private:
  const DecodeSchedule& s_;
  Line l_;
  int line_ = 0, share_ = 0, unit_ = 0, end_ = 0, tile_ = 0;
};

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
