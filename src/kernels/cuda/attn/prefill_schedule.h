// How the Hopper prefill kernel shares out a launch: which tiles in which order, and which of them
// in pieces. Pure function of the host.
//
// A chunk of some hundred tokens behind a long history has fewer (tile, head) pairs than the GPU
// has processors. Then the lists of long tiles are cut into pieces, each attended to by itself and
// merged by their log-sum-exps.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "plan/tile.h"

namespace lserve::cuda {

// `blocks` of a tile's list, from block `count` of run `run` (its first `count` blocks) back.
struct PrefillPiece {
  int32_t tile;
  int32_t run, count;
  int32_t blocks;  // kWholeTile: to the list's beginning
  int32_t part;    // the partial result it writes, or -1: the tile's rows themselves
};
inline constexpr int32_t kWholeTile = std::numeric_limits<int32_t>::max();

// Parts [part, part + parts) make up the rows of `tile`.
struct PrefillMerge {
  int32_t tile, part, parts;
};

struct PrefillSchedule {
  std::vector<PrefillPiece> pieces;  // in the order in which CTAs take them
  std::vector<PrefillMerge> merges;
  int num_parts = 0;
};

struct PrefillScheduleOptions {
  int group = 1;              // query heads of a KV head
  int heads_per_tile = 1;     // that run a piece each
  int heads_per_section = 1;  // KV heads whose K and V together stay in the L2 cache
  int processors = 0;         // 0: whole tiles only
};

// KV heads are worked off in sections of neighbours, the section with most work first. Within a
// section the longest pieces come first, so that what is left for the last is small, and equals
// keep their order: pieces of the same place in the lists run together and read the same keys.
// Behind pieces of one length comes all that is shorter. All blocks cost alike; those of long lists
// are estimated.
PrefillSchedule SchedulePrefill(std::span<const Tile> tiles, const Run* runs,
                                const PrefillScheduleOptions& options);

// Most (part, head) pairs of a schedule; a merge has two parts or more.
int MostPrefillParts(int processors);

}  // namespace lserve::cuda
