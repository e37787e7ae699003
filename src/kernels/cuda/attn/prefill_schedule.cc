#include "kernels/cuda/attn/prefill_schedule.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"

namespace lserve::cuda {
namespace {

// Pieces that a processor gets: more of them spread more evenly, and write and merge more.
constexpr int kPiecesEach = 4;
// A shorter piece is not worth its partial result: eight stages of the kernel.
constexpr int64_t kLeastBlocks = 16;

// Of long lists an estimate from evenly spaced runs: a list of a thousand runs a tile would cost
// the host more than the order is worth.
int64_t ListedBlocks(const Tile& tile, const Run* runs) {
  constexpr int kCounted = 32;
  const int count = tile.run_end - tile.run_begin, step = std::max(1, count / kCounted);
  int64_t blocks = 0, counted = 0;
  for (int r = tile.run_begin; r < tile.run_end; r += step, ++counted) blocks += runs[r].count;
  return step == 1 ? blocks : blocks * count / counted;
}

// The list cut into pieces of `share` blocks, an even number as the kernel takes two at a time, and
// one with the rest, unless that makes too many parts. Equal pieces fill the processors in rounds
// that end together and rests fill what is left, where lists cut evenly would leave a processor in
// five idle in the last round. A rest that is too short shares with the piece before it.
bool Cut(int index, const Tile& tile, const Run* runs, int64_t share, int64_t most_parts,
         PrefillSchedule* out) {
  int64_t left = 0;
  for (int r = tile.run_begin; r < tile.run_end; ++r) left += runs[r].count;
  const int64_t parts = (left + share - 1) / share;
  if (parts < 2 || out->num_parts + parts > most_parts) return false;
  out->merges.push_back({index, out->num_parts, static_cast<int32_t>(parts)});
  int run = tile.run_end - 1, count = runs[run].count;
  while (left > 0) {
    const bool short_rest = left > share && left < share + kLeastBlocks;
    const int64_t blocks = short_rest ? (left / 2 + 1) / 2 * 2 : std::min(left, share);
    out->pieces.push_back({index, run, count, static_cast<int32_t>(blocks), out->num_parts++});
    left -= blocks;
    for (int64_t skip = blocks; left > 0 && skip > 0;) {
      const int some = static_cast<int>(std::min<int64_t>(skip, count));
      skip -= some;
      if ((count -= some) == 0) count = runs[--run].count;
    }
  }
  return true;
}

}  // namespace

int MostPrefillParts(int processors) {
  // Cut tiles have more than 1.25 shares, so there are at most 4 / 5 kPiecesEach of them a
  // processor, and each may have one piece more than its blocks make.
  return processors * (kPiecesEach + (4 * kPiecesEach + 4) / 5);
}

PrefillSchedule SchedulePrefill(std::span<const Tile> tiles, const Run* runs,
                                const PrefillScheduleOptions& options) {
  PrefillSchedule out;
  std::vector<int64_t> blocks(tiles.size());
  int64_t all = 0;
  for (size_t i = 0; i < tiles.size(); ++i) {
    blocks[i] = ListedBlocks(tiles[i], runs);
    all += blocks[i] * options.heads_per_tile;
  }
  const int64_t share =
      options.processors > 0
          ? std::max(kLeastBlocks, (all / (int64_t{options.processors} * kPiecesEach) + 2) / 2 * 2)
          : std::numeric_limits<int64_t>::max() / 2;
  const int most_parts = MostPrefillParts(options.processors) / options.heads_per_tile;
  out.pieces.reserve(tiles.size());
  for (size_t i = 0; i < tiles.size(); ++i) {
    const int index = static_cast<int>(i);
    if (blocks[i] > share + share / 4 && Cut(index, tiles[i], runs, share, most_parts, &out))
      continue;
    const int run = tiles[i].run_end - 1;
    out.pieces.push_back({index, run, runs[run].count, kWholeTile, -1});
  }

  const auto section_of = [&](const PrefillPiece& p) {
    return static_cast<size_t>(tiles[static_cast<size_t>(p.tile)].head / options.group /
                               options.heads_per_section);
  };
  const auto size_of = [&](const PrefillPiece& p) {
    return p.blocks == kWholeTile ? blocks[static_cast<size_t>(p.tile)] : int64_t{p.blocks};
  };
  // A key a piece: rank of the section, blocks from most to fewest, place in the list, index.
  // Pieces count as equal up to a sixteenth of a share. Where lists are cut, what is shorter than a
  // share comes behind all sections: it fills the last round.
  constexpr int kIndexBits = 20, kPlaceBits = 8, kBlockBits = 24;
  constexpr int64_t kMostBlocks = (int64_t{1} << kBlockBits) - 1;
  CHECK(out.pieces.size() < size_t{1} << kIndexBits);
  std::vector<int64_t> section_blocks;
  std::vector<uint64_t> keys(out.pieces.size());
  const int64_t grain = std::max<int64_t>(1, options.processors > 0 ? share / 16 : 1);
  for (size_t i = 0; i < out.pieces.size(); ++i) {
    const PrefillPiece& p = out.pieces[i];
    const bool whole = p.blocks == kWholeTile;
    const int64_t size = size_of(p);
    const size_t section = section_of(p);
    if (section >= section_blocks.size()) section_blocks.resize(section + 1);
    section_blocks[section] += size;
    const int64_t rounded = whole ? size : (size + grain / 2) / grain * grain;
    const bool follows = !whole && i > 0 && out.pieces[i - 1].tile == p.tile;
    const uint64_t place =
        follows ? std::min<uint64_t>((keys[i - 1] >> kIndexBits & 255) + 1, 255) : 0;
    keys[i] = static_cast<uint64_t>(kMostBlocks - std::min(rounded, kMostBlocks))
                  << (kIndexBits + kPlaceBits) |
              place << kIndexBits | i;
  }
  std::vector<size_t> sections(section_blocks.size());
  std::iota(sections.begin(), sections.end(), size_t{0});
  std::stable_sort(sections.begin(), sections.end(),
                   [&](size_t a, size_t b) { return section_blocks[a] > section_blocks[b]; });
  std::vector<uint64_t> rank(sections.size());
  for (size_t i = 0; i < sections.size(); ++i) rank[sections[i]] = i;
  for (size_t i = 0; i < out.pieces.size(); ++i) {
    const bool fills = !out.merges.empty() && size_of(out.pieces[i]) < share;
    keys[i] |= (fills ? sections.size() : rank[section_of(out.pieces[i])])
               << (kIndexBits + kPlaceBits + kBlockBits);
  }
  std::sort(keys.begin(), keys.end());
  std::vector<PrefillPiece> ordered(keys.size());
  std::transform(keys.begin(), keys.end(), ordered.begin(),
                 [&](uint64_t key) { return out.pieces[key & ((uint64_t{1} << kIndexBits) - 1)]; });
  out.pieces = std::move(ordered);
  return out;
}

}  // namespace lserve::cuda
