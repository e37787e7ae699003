// The rows of a plan as plain data, for kernels of any backend: plan/attn_plan.h says what they
// mean together. No dependencies, so that device compilers read it too.
#pragma once

#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define LSERVE_HOST_DEVICE __host__ __device__
#else
#define LSERVE_HOST_DEVICE
#endif

namespace lserve {

inline constexpr int kBlockTokens = 64;
inline constexpr int32_t kNoPage = -1;  // table entry of a block that is released or not there yet
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

// The rule. `q_pos` and `k_pos` are absolute.
LSERVE_HOST_DEVICE inline bool Visible(const Tile& tile, int q_pos, int k_pos) {
  return k_pos <= q_pos && (k_pos < tile.sink_len || k_pos > q_pos - tile.window_len);
}

}  // namespace lserve
