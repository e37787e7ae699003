#include "kernels/cuda/attn/prefill_schedule.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"

namespace lserve::cuda {
namespace {

// Of long lists an estimate from evenly spaced runs: a list of a thousand runs a tile would cost
// the host more than the order is worth.
uint64_t ListedBlocks(const Tile& tile, const Run* runs) {
  constexpr int kCounted = 32;
  const int count = tile.run_end - tile.run_begin, step = std::max(1, count / kCounted);
  uint64_t blocks = 0, counted = 0;
  for (int r = tile.run_begin; r < tile.run_end; r += step, ++counted)
    blocks += static_cast<uint64_t>(runs[r].count);
  return step == 1 ? blocks : blocks * static_cast<uint64_t>(count) / counted;
}

}  // namespace

std::vector<int32_t> PrefillOrder(std::span<const Tile> tiles, const Run* runs, int group,
                                  int heads_per_section) {
  const auto section_of = [&](const Tile& t) {
    return static_cast<size_t>(t.head / group / heads_per_section);
  };
  // A key a tile: rank of the section, blocks from most to fewest, index.
  constexpr int kIndexBits = 24, kBlockBits = 24;
  constexpr uint64_t kMostBlocks = (uint64_t{1} << kBlockBits) - 1;
  CHECK(tiles.size() < size_t{1} << kIndexBits);
  std::vector<uint64_t> keys(tiles.size());
  std::vector<uint64_t> section_blocks;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const uint64_t blocks = ListedBlocks(tiles[i], runs);
    const size_t section = section_of(tiles[i]);
    if (section >= section_blocks.size()) section_blocks.resize(section + 1);
    section_blocks[section] += blocks;
    keys[i] = (kMostBlocks - std::min(blocks, kMostBlocks)) << kIndexBits | i;
  }
  std::vector<size_t> sections(section_blocks.size());
  std::iota(sections.begin(), sections.end(), size_t{0});
  std::stable_sort(sections.begin(), sections.end(),
                   [&](size_t a, size_t b) { return section_blocks[a] > section_blocks[b]; });
  std::vector<uint64_t> rank(sections.size());
  for (size_t i = 0; i < sections.size(); ++i) rank[sections[i]] = i;
  for (size_t i = 0; i < tiles.size(); ++i)
    keys[i] |= rank[section_of(tiles[i])] << (kIndexBits + kBlockBits);
  std::sort(keys.begin(), keys.end());
  std::vector<int32_t> order(tiles.size());
  std::transform(keys.begin(), keys.end(), order.begin(), [](uint64_t key) {
    return static_cast<int32_t>(key & ((uint64_t{1} << kIndexBits) - 1));
  });
  return order;
}

}  // namespace lserve::cuda
