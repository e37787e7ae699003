// How the blocks of all tiles are cut over the thread blocks of a decode launch. The host knows
// capacities only, so every thread block derives the same schedule from the plan.
//
// Each thread block reads one share of a first line, and then takes shares of a second line by a
// counter until there are none: memory does not serve all multiprocessors equally fast, and equal
// shares alone leave a tenth and more of them idle at the end. What a share is never depends on who
// takes it, so results are the same run after run.
//
// Plain arithmetic, for host and device; decode_schedule.cuh is the part that takes a warp.
//
//   usual          The first line holds the first blocks of every list, tile after tile; the second
//                  the last quarter of long lists, when there is enough work. A line of T blocks in
//                  n shares is cut at its (T / n)-th blocks, wherever tiles end.
//   deterministic  The first line is empty. A list is cut every PartBlocks(its length) blocks,
//                  whatever else is in the batch; these parts are the shares of the second line.
//                  So are usual launches of so little work that every part has a thread block of
//                  its own: to end a segment takes longer than to read one.
//
// A piece of a list that one share holds is a segment; its partial result has a slot. A tile's
// slots are consecutive in each line, and are merged in order. In a line, slot = tile + share: both
// only grow along it, so that no two segments meet.
#pragma once

#include <algorithm>
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
LSERVE_HOST_DEVICE inline int PartBlocks(int blocks) {
  if (blocks <= 4 * kMaxParts) return 4;
  const int even = (blocks + kMaxParts - 1) / kMaxParts;
  return even < 16 ? 16 : even;
}

// Slots that a launch can need; `deterministic`: of either kind.
inline int64_t DecodeSlots(int64_t num_tiles, bool deterministic) {
  const int64_t usual = 2 * num_tiles + kMostSlots;
  return deterministic ? std::max(usual, num_tiles * kMaxParts) : usual;
}

struct Segment {
  int tile;
  int begin, end;  // of the tile's list
  int slot;        // of the partial result; -1: the tile has no other segment
};

// Slots of a tile in the two lines.
struct TileSlots {
  int first[2], count[2];

  LSERVE_HOST_DEVICE int Total() const { return count[0] + count[1]; }
  LSERVE_HOST_DEVICE int At(int i) const {
    return i < count[0] ? first[0] + i : first[1] + i - count[0];
  }
};

// `prefix[num_tiles]` units in `shares` pieces that differ by one at most.
struct Line {
  const int* prefix;  // [num_tiles + 1] units before each tile
  int shares, each, extra, slot;
  int lead;  // units of a tile that are no blocks

  LSERVE_HOST_DEVICE void Cut(const int* units_before, int num_tiles, int pieces, int first_slot,
                              int tile_lead) {
    prefix = units_before, slot = first_slot, lead = tile_lead;
    const int total = prefix[num_tiles];
    shares = std::min(pieces, total);
    each = shares > 0 ? total / shares : 0, extra = total - shares * each;
  }
  LSERVE_HOST_DEVICE int Begin(int share) const { return share * each + std::min(share, extra); }
  LSERVE_HOST_DEVICE int ShareOf(int unit) const {
    const int longer = extra * (each + 1);
    return unit < longer ? unit / (each + 1) : extra + (unit - longer) / each;
  }
  // The last tile that begins at or before a unit.
  LSERVE_HOST_DEVICE int TileOf(int unit, int num_tiles) const {
    int low = 0, high = num_tiles;  // prefix[low] <= unit < prefix[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (prefix[middle] <= unit ? low : high) = middle;
    }
    return low;
  }
  LSERVE_HOST_DEVICE void Slots(int tile, int* first, int* count) const {
    const int begin = prefix[tile] + lead, end = prefix[tile + 1];
    *first = *count = 0;
    if (begin >= end) return;
    const int share = ShareOf(begin);
    *first = slot + tile + share, *count = ShareOf(end - 1) - share + 1;
  }
};

struct DecodeSchedule {
  const int* counts;  // [num_tiles] blocks listed
  int num_tiles;
  bool deterministic;
  Line lines[2];

  // Units of a tile of n blocks in each line. `second`: there is a second line.
  LSERVE_HOST_DEVICE static void Units(int n, bool deterministic, bool second, int lead,
                                       int (&units)[2]) {
    if (deterministic) {
      const int part = PartBlocks(n);
      units[0] = 0, units[1] = (n + part - 1) / part;
    } else {
      units[1] = second && n >= 16 ? n / 4 : 0;
      units[0] = n > 0 ? lead + n - units[1] : 0;
    }
  }
  LSERVE_HOST_DEVICE static bool Second(int total, int grid) { return total >= kSecondFrom * grid; }
  // `prefixes`: two arrays of num_tiles + 1, of units before each tile. `filled`: tiles that list
  // something.
  LSERVE_HOST_DEVICE void Cut(const int* prefixes, int grid, int filled, int lead) {
    lines[0].Cut(prefixes, num_tiles, grid, 0, lead);
    const int* units = prefixes + num_tiles + 1;
    const int total = units[num_tiles];
    if (deterministic) {  // a share a part, slots from 0
      lines[1].prefix = units, lines[1].shares = total;
    } else {
      const int most = std::min(kSecondShares * grid, kSecondTileShares * filled);
      lines[1].Cut(units, num_tiles, std::max(1, std::min(most, total / 2)), num_tiles + grid, 0);
    }
  }
  LSERVE_HOST_DEVICE TileSlots Slots(int tile) const {
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
};

// The segments of one share after the other.
class SegmentWalk {
 public:
  LSERVE_HOST_DEVICE explicit SegmentWalk(const DecodeSchedule& schedule) : s_(schedule) {}
  LSERVE_HOST_DEVICE void Start(int line, int share) {
    line_ = line, share_ = share, l_ = line == 0 ? s_.lines[0] : s_.lines[1];
    unit_ = end_ = 0;
    if (share >= l_.shares) return;
    unit_ = s_.deterministic ? share : l_.Begin(share);
    end_ = s_.deterministic ? share + 1 : l_.Begin(share + 1);
    tile_ = l_.TileOf(unit_, s_.num_tiles);
  }
  LSERVE_HOST_DEVICE bool Next(Segment* out) {
    if (unit_ >= end_) return false;
    if (s_.deterministic) {
      const int blocks = s_.counts[tile_], part = PartBlocks(blocks);
      const int begin = (share_ - l_.prefix[tile_]) * part;
      *out = {tile_, begin, std::min(begin + part, blocks), blocks > part ? share_ : -1};
      unit_ = end_;
      return true;
    }
    for (;; ++tile_) {
      const int begin = l_.prefix[tile_] + l_.lead, to = std::min(end_, l_.prefix[tile_ + 1]);
      const int from = std::max(unit_, begin);
      unit_ = std::max(unit_, to);
      if (from < to) {
        // The second line's part of a list begins where the first one's ends.
        const Line& first = s_.lines[0];
        const int offset =
            line_ == 0 ? 0 : first.prefix[tile_ + 1] - first.prefix[tile_] - first.lead;
        const bool whole = to - from == s_.counts[tile_];
        *out = {tile_, offset + from - begin, offset + to - begin,
                whole ? -1 : l_.slot + tile_ + share_};
        return true;
      }
      if (unit_ >= end_) return false;
    }
  }

 private:
  const DecodeSchedule& s_;
  Line l_;
  int line_ = 0, share_ = 0, unit_ = 0, end_ = 0, tile_ = 0;
};

}  // namespace lserve::cuda
