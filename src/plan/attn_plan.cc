#include "plan/attn_plan.h"

#include <algorithm>

namespace lserve {
namespace {

// Whether every key of the block is visible to every query of the tile.
bool WhollyVisible(const Tile& tile, int block) {
  const int first = block * kBlockTokens, last = first + kBlockTokens - 1;
  const int q_first = tile.q_pos, q_last = tile.q_pos + tile.q_len - 1;
  // The last query's gap between sink and window is the longest.
  return last <= q_first &&
         std::max(first, tile.sink_len) > std::min(last, q_last - tile.window_len);
}

}  // namespace

int64_t ListedBlocks(const AttnPlan& plan, const Tile& tile) {
  int64_t blocks = 0;
  for (const Run& run : plan.RunsOf(tile)) blocks += run.count;
  return blocks;
}

void AppendRuns(std::span<const int32_t> blocks, int32_t masked_from, std::vector<Run>* runs) {
  const size_t begin = runs->size();
  for (int32_t block : blocks) {
    const int32_t masked = block >= masked_from;
    if (runs->size() > begin && runs->back().masked == masked &&
        runs->back().first + runs->back().count == block) {
      ++runs->back().count;
    } else {
      runs->push_back({block, 1, masked});
    }
  }
}

Status Validate(const AttnPlan& plan) {
  const PlanShape& shape = plan.shape;
  if (shape.num_kv_heads <= 0 || shape.num_q_heads % shape.num_kv_heads != 0)
    return InvalidArgument("plan: {} query heads over {} KV heads", shape.num_q_heads,
                           shape.num_kv_heads);
  const int group = shape.num_q_heads / shape.num_kv_heads;
  if (shape.heads_per_tile <= 0 || group % shape.heads_per_tile != 0)
    return InvalidArgument("plan: {} heads a tile in groups of {}", shape.heads_per_tile, group);
  for (size_t i = 0; i < plan.tiles.size(); ++i) {
    const Tile& t = plan.tiles[i];
    const auto fail = [&](const char* rule) {
      return InvalidArgument("plan: tile {}: {}", i, rule);
    };
    if (t.seq < 0 || t.q_begin < 0 || t.q_len < 1 || t.q_len > shape.q_tile)
      return fail("sequence or query range");
    if (t.head < 0 || t.head + shape.heads_per_tile > shape.num_q_heads ||
        t.head % shape.heads_per_tile != 0)
      return fail("head range");
    if (t.q_pos < 0 || t.q_pos + t.q_len > t.kv_len) return fail("queries past kv_len");
    if (t.sink_len < 0 || t.window_len < 1) return fail("negative sink or empty window");
    if (t.run_begin < 0 || t.run_begin > t.run_end ||
        static_cast<size_t>(t.run_end) > plan.runs.size())
      return fail("run range");
    const int oldest = t.q_pos / kBlockTokens, newest = (t.q_pos + t.q_len - 1) / kBlockTokens;
    int next = 0, own_blocks = 0;
    for (int r = t.run_begin; r < t.run_end; ++r) {
      const Run& run = plan.runs[static_cast<size_t>(r)];
      const auto fail_run = [&](const char* rule) {
        return InvalidArgument("plan: tile {}, run {}: {}", i, r - t.run_begin, rule);
      };
      if (run.count < 1) return fail_run("empty");
      if (run.first < next) return fail_run("not ascending and disjoint");
      next = run.first + run.count;
      if (next > newest + 1) return fail_run("past the newest query");
      own_blocks += std::max(0, next - std::max(run.first, oldest));
      if (!run.masked)
        for (int b = run.first; b < next; ++b)
          if (!WhollyVisible(t, b)) return fail_run("partly visible block in an unmasked run");
    }
    if (own_blocks != newest - oldest + 1) return fail("newest block of a query not listed");
  }
  return Ok();
}

std::vector<std::vector<bool>> ToDenseMask(const AttnPlan& plan, const Tile& tile) {
  std::vector<std::vector<bool>> mask(static_cast<size_t>(tile.q_len),
                                      std::vector<bool>(static_cast<size_t>(tile.kv_len)));
  for (const Run& run : plan.RunsOf(tile))
    for (int k = run.first * kBlockTokens;
         k < std::min(tile.kv_len, (run.first + run.count) * kBlockTokens); ++k)
      for (int q = 0; q < tile.q_len; ++q)
        mask[static_cast<size_t>(q)][static_cast<size_t>(k)] =
            !run.masked || Visible(tile, tile.q_pos + q, k);
  return mask;
}

}  // namespace lserve
