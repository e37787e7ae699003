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
#include <limits>
#include <span>
#include <vector>

#include "core/status.h"

namespace lserve {

inline constexpr int kBlockTokens = 64;
inline constexpr int kNoWindow = std::numeric_limits<int>::max() / 2;

// Logical blocks [first, first + count). In an unmasked run every token is visible to every query
// of the tile; in a masked run the kernel applies the rule above token by token.
struct Run {
  int32_t first, count;
  int32_t masked;
};

// One row of work: `q_len` consecutive queries of one sequence for the `heads_per_tile` query heads
// from `head` on, which share one KV head and one list.
struct Tile {
  int32_t seq;      // sequence slot: the row of the page tables
  int32_t head;     // first query head
  int32_t q_begin;  // rows [q_begin, q_begin + q_len) of the packed query
  int32_t q_len;
  int32_t q_pos;      // absolute position of row q_begin
  int32_t kv_len;     // tokens of the sequence that are stored, this step's included
  int32_t run_begin;  // runs [run_begin, run_end)
  int32_t run_end;
  int32_t sink_len;    // tokens; 0 where there is no window
  int32_t window_len;  // tokens; kNoWindow for dense and retrieval heads
};

// What a launch must know before the contents: capacities, not counts.
struct PlanShape {
  int num_q_heads = 0, num_kv_heads = 0;
  int heads_per_tile = 0;  // divides num_q_heads / num_kv_heads
  int q_tile = 0;          // most queries a tile has
};

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

// The rule. `q_pos` and `k_pos` are absolute.
inline bool Visible(const Tile& tile, int q_pos, int k_pos) {
  return k_pos <= q_pos && (k_pos < tile.sink_len || k_pos > q_pos - tile.window_len);
}

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
