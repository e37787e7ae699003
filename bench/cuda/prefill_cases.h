// Shapes of prefill attention for bench/cuda/prefill_bench.cu: one sequence, a chunk of queries
// behind a history, and for every KV head who reads what. Plans are made by the rules of
// src/sparse/windows.h; random lists are the same for all heads of a tile.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "plan/attn_plan.h"
#include "sparse/windows.h"

namespace lserve::bench {

struct PrefillShape {
  int dim = 128, q_heads = 32, kv_heads = 8;
  int heads_per_tile = 0;      // 0: the whole group
  int history = 0, chunk = 0;  // tokens
  int sink = 0, window = kNoWindow;
  int streaming_heads = 0;  // KV heads [0, this) take sink and window, the others see everything
  double keep = 1.0;        // of the blocks before the diagonal, for the others
};

struct PrefillPlan {
  PlanShape shape;
  std::vector<Tile> tiles;
  std::vector<Run> runs;
  int64_t listed = 0, dense = 0;  // blocks, times query heads
  double pairs = 0;               // query-key pairs, times query heads, as if blocks were whole

  AttnPlan View() const { return {shape, tiles, runs}; }
};

inline PrefillPlan MakePlan(const PrefillShape& s, int q_tile, uint32_t seed) {
  PrefillPlan plan;
  std::mt19937 random(seed);
  const int group = s.q_heads / s.kv_heads, heads = s.heads_per_tile ? s.heads_per_tile : group;
  plan.shape = {s.q_heads, s.kv_heads, heads, q_tile};
  for (int begin = 0; begin < s.chunk; begin += q_tile) {
    for (int head = 0; head < s.q_heads; head += heads) {
      const bool streaming = head / group < s.streaming_heads;
      Tile t{};
      t.head = head;
      t.q_begin = begin;
      t.q_len = std::min(q_tile, s.chunk - begin);
      t.q_pos = s.history + begin;
      t.kv_len = s.history + s.chunk;
      t.sink_len = streaming ? s.sink : 0;
      t.window_len = streaming ? s.window : kNoWindow;
      t.run_begin = static_cast<int32_t>(plan.runs.size());
      AppendWindowRuns(t, &plan.runs);
      if (!streaming && s.keep < 1.0) {
        const Run diagonal = plan.runs.back();
        plan.runs.resize(static_cast<size_t>(t.run_begin));
        std::bernoulli_distribution kept(s.keep);
        for (int b = 0; b < diagonal.first; ++b) {
          if (!kept(random)) continue;
          const bool join = static_cast<int>(plan.runs.size()) > t.run_begin &&
                            plan.runs.back().first + plan.runs.back().count == b;
          if (join)
            ++plan.runs.back().count;
          else
            plan.runs.push_back({b, 1, 0});
        }
        plan.runs.push_back(diagonal);
      }
      t.run_end = static_cast<int32_t>(plan.runs.size());
      for (int r = t.run_begin; r < t.run_end; ++r)
        plan.listed += int64_t{plan.runs[static_cast<size_t>(r)].count} * heads;
      plan.dense += int64_t{(t.q_pos + t.q_len - 1) / kBlockTokens + 1} * heads;
      plan.pairs += heads * (static_cast<double>(t.q_len) * t.q_pos + 0.5 * t.q_len * t.q_len);
      plan.tiles.push_back(t);
    }
  }
  return plan;
}

}  // namespace lserve::bench
