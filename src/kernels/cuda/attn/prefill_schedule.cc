#include "kernels/cuda/attn/prefill_schedule.h"

#include <algorithm>

namespace lserve::cuda {

std::vector<int32_t> LongestFirst(std::span<const Tile> tiles, const Run* runs) {
  std::vector<std::pair<int64_t, int32_t>> work(tiles.size());
  for (size_t i = 0; i < tiles.size(); ++i) {
    int64_t blocks = 0;
    for (int r = tiles[i].run_begin; r < tiles[i].run_end; ++r) blocks += runs[r].count;
    work[i] = {-blocks, static_cast<int32_t>(i)};
  }
  std::sort(work.begin(), work.end());
  std::vector<int32_t> order(tiles.size());
  std::transform(work.begin(), work.end(), order.begin(), [](const auto& w) { return w.second; });
  return order;
}

}  // namespace lserve::cuda
