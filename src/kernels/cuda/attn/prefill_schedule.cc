#include "kernels/cuda/attn/prefill_schedule.h"

#include <algorithm>
#include <tuple>

namespace lserve::cuda {

std::vector<int32_t> PrefillOrder(std::span<const Tile> tiles, const Run* runs, int group,
                                  int heads_per_section) {
  struct Work {
    int section;
    int64_t section_blocks, blocks;
    int32_t tile;
  };
  std::vector<Work> work(tiles.size());
  std::vector<int64_t> section_blocks;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const Tile& t = tiles[i];
    Work& w = work[i];
    w = {t.head / group / heads_per_section, 0, 0, static_cast<int32_t>(i)};
    for (int r = t.run_begin; r < t.run_end; ++r) w.blocks += runs[r].count;
    const size_t section = static_cast<size_t>(w.section);
    if (section >= section_blocks.size()) section_blocks.resize(section + 1);
    section_blocks[section] += w.blocks;
  }
  for (Work& w : work) w.section_blocks = section_blocks[static_cast<size_t>(w.section)];
  std::sort(work.begin(), work.end(), [](const Work& a, const Work& b) {
    return std::tuple(-a.section_blocks, a.section, -a.blocks, a.tile) <
           std::tuple(-b.section_blocks, b.section, -b.blocks, b.tile);
  });
  std::vector<int32_t> order(tiles.size());
  std::transform(work.begin(), work.end(), order.begin(), [](const Work& w) { return w.tile; });
  return order;
}

}  // namespace lserve::cuda
