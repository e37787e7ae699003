// The waist of lserve, first fact: WHICH blocks of the KV cache a row of attention work reads.
// Policy (sparse/) writes plans, kernels only walk them and never ask what kind of head they serve:
// a dense head, a streaming head and a retrieval head after selection are lists of blocks that
// differ in length.
//
// A block is kBlockTokens consecutive tokens of one sequence and one KV head; blocks are logical
// (block b holds positions [64b, 64b + 64)), kv_view.h says where a block lives and kv_codec.h how
// it is stored.
//
// Visibility, the one rule: key j is visible to query i (absolute positions) iff  j <= i  and  (j <
// sink_len or j > i - window_len), and its block is listed. window_len counts the query's own
// token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/status.h"
#include "plan/tile.h"

namespace lserve {

// Data only; the spans belong to whoever built the plan (see sparse/planner.h).
struct AttnPlan {
  PlanShape shape;
  std::span<const Tile> tiles;
  std::span<const Run> runs;

  std::span<const Run> RunsOf(const Tile& tile) const {
    return runs.subspan(static_cast<size_t>(tile.run_begin),
                        static_cast<size_t>(tile.run_end - tile.run_begin));
  }
};

// Blocks that the tile lists.
int64_t ListedBlocks(const AttnPlan& plan, const Tile& tile);

// Appends `blocks` (ascending, distinct) as runs, adjacent ones joined. `masked_from`: blocks from
// this one on go into masked runs.
void AppendRuns(std::span<const int32_t> blocks, int32_t masked_from, std::vector<Run>* runs);

// Whether kernels may walk the plan: ranges inside their arrays, runs ascending and disjoint, the
// newest block of every query present, each listed block that is only partly visible to some query
// in a masked run, nothing past kv_len. The error names tile, run and rule.
Status Validate(const AttnPlan& plan);

// mask[q][k] for one tile, q_len x kv_len: what the plan makes visible. For tests: slow and plain.
std::vector<std::vector<bool>> ToDenseMask(const AttnPlan& plan, const Tile& tile);

}  // namespace lserve
