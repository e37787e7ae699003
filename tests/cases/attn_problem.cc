#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "tests/cases/attn_cases.h"

namespace lserve::cases {
namespace {

int Blocks(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

// Tokens of a block that one query sees.
int VisibleTokens(const Tile& tile, int q_pos, int block) {
  const int lo = block * kBlockTokens, hi = std::min({lo + kBlockTokens, tile.kv_len, q_pos + 1});
  const int gap_lo = std::max(lo, tile.sink_len),
            gap_hi = std::min(hi, q_pos - tile.window_len + 1);
  return std::max(0, hi - lo) - std::max(0, gap_hi - gap_lo);
}

bool AnyVisible(const Tile& tile, int block) {
  for (int i = 0; i < tile.q_len; ++i)
    if (VisibleTokens(tile, tile.q_pos + i, block) > 0) return true;
  return false;
}

bool AllVisible(const Tile& tile, int block) {
  for (int i = 0; i < tile.q_len; ++i)
    if (VisibleTokens(tile, tile.q_pos + i, block) < kBlockTokens) return false;
  return true;
}

using Random = std::mt19937_64;
int Below(int n, Random* random) {
  return static_cast<int>((*random)() % static_cast<uint64_t>(n));
}
bool Chance(double p, Random* random) {
  return static_cast<double>((*random)() >> 11) * 0x1p-53 < p;
}

// The blocks that a tile lists.
std::vector<int> ChooseList(const AttnCase& c, const Tile& tile, Random* random) {
  const int first_own = tile.q_pos / kBlockTokens;
  const int newest = (tile.q_pos + tile.q_len - 1) / kBlockTokens;
  std::function<bool(int)> listed;
  const double density =
      std::vector{0.0, 0.2, 0.5, 0.9, 1.0}[static_cast<size_t>(Below(5, random))];
  std::set<int> selected;
  for (int i = 0; i < c.blocks && newest > 0; ++i) selected.insert(Below(newest, random));
  switch (c.plan) {
    case PlanKind::kDense:
      listed = [&](int) { return true; };
      break;
    case PlanKind::kStreaming:
      listed = [&](int b) { return AnyVisible(tile, b); };
      break;
    case PlanKind::kSelected:
      listed = [&](int b) { return selected.count(b) > 0; };
      break;
    case PlanKind::kRandom:
      listed = [&](int) { return Chance(density, random); };
      break;
  }
  std::vector<int> list;
  for (int b = 0; b <= newest; ++b)
    if (b >= first_own || listed(b)) list.push_back(b);
  return list;
}

}  // namespace

void FillNormal(Mat m, double deviation, Random* random) {
  std::normal_distribution<float> normal;
  for (int r = 0; r < m.rows; ++r)
    for (int c = 0; c < m.cols; ++c)
      m.Row(r)[c] = static_cast<float>(deviation) * normal(*random) * (c % 16 == 5 ? 4.0f : 1.0f);
}

AttnProblem::AttnProblem(const AttnCase& c, int q_tile) {
  // Cutting the tiles otherwise changes neither q nor what is stored.
  const uint64_t seed = std::hash<std::string>{}(c.name);
  Random random(seed), q_random(seed + 1);
  scale_ = 1 / std::sqrt(static_cast<float>(c.dim));

  // Slots differ from the order of the batch, and one stays empty.
  std::vector<HeadClass> classes;
  for (int h = 0; h < c.kv_heads; ++h)
    classes.push_back(Chance(0.5, &random) ? HeadClass::kStreaming : HeadClass::kRetrieval);
  int longest = 1;
  for (const SeqCase& s : c.seqs) longest = std::max(longest, s.kv_len);
  const KvCodec codec(c.k_type, c.v_type, c.dim);
  kv_ = std::make_unique<ScratchKv>(HeadMap(classes), codec, KeyStats{16, c.dim},
                                    static_cast<int>(c.seqs.size()) + 1, Blocks(longest), random());

  BuildTiles(c, q_tile > 0 ? q_tile : c.q_tile, &random);
  FillPages(c, seed);

  int rows = 0;
  for (const SeqCase& s : c.seqs) rows += s.q_len;
  const int cols = c.q_heads() * c.dim, stride = cols + c.padding;
  q_data_.assign(static_cast<size_t>(rows) * stride, std::numeric_limits<float>::quiet_NaN());
  q_ = Mat(q_data_.data(), rows, cols, stride);
  // Keys have deviation 1 but for a sixteenth of the channels, 4 in both, which adds 16 times as
  // much.
  FillNormal(q_, c.sharpness / std::sqrt(15.0 / 16 + 256.0 / 16), &q_random);
}

void AttnProblem::BuildTiles(const AttnCase& c, int q_tile, Random* random) {
  plan_.shape = {c.q_heads(), c.kv_heads, c.heads_per_tile, q_tile};
  int q_begin = 0;
  for (size_t s = 0; s < c.seqs.size(); ++s) {
    const SeqCase& seq = c.seqs[s];
    for (int head = 0; head < c.q_heads(); head += c.heads_per_tile) {
      for (int q = 0; q < seq.q_len; q += q_tile) {
        Tile tile{};
        tile.seq = static_cast<int>(c.seqs.size() - s);
        tile.head = head;
        tile.q_begin = q_begin + q;
        tile.q_len = std::min(q_tile, seq.q_len - q);
        tile.q_pos = seq.kv_len - seq.q_len + q;
        tile.kv_len = seq.kv_len;
        tile.sink_len = c.sink;
        tile.window_len = c.window;
        if (c.plan == PlanKind::kRandom && Chance(0.5, random)) {
          tile.sink_len = Below(200, random);
          tile.window_len = 1 + Below(300, random);
        }
        tile.run_begin = static_cast<int>(runs_.size());
        for (int b : ChooseList(c, tile, random)) {
          bool masked = !AllVisible(tile, b), split = false;
          if (c.plan == PlanKind::kRandom) {  // more masks and borders than necessary are valid
            masked = masked || Chance(0.2, random);
            split = Chance(0.3, random);
          }
          Run* last = static_cast<int>(runs_.size()) > tile.run_begin ? &runs_.back() : nullptr;
          if (last && !split && last->first + last->count == b && (last->masked != 0) == masked)
            ++last->count;
          else
            runs_.push_back({b, 1, masked});
          bytes_ += static_cast<int64_t>(view().codec.slice_bytes());
          for (int i = 0; i < tile.q_len; ++i)
            flops_ +=
                int64_t{4} * c.dim * c.heads_per_tile * VisibleTokens(tile, tile.q_pos + i, b);
        }
        tile.run_end = static_cast<int>(runs_.size());
        tiles_.push_back(tile);
      }
    }
    q_begin += seq.q_len;
  }
  if (c.plan == PlanKind::kRandom) std::shuffle(tiles_.begin(), tiles_.end(), *random);
  plan_.tiles = tiles_;
  plan_.runs = runs_;
}

void AttnProblem::FillPages(const AttnCase& c, uint64_t seed) {
  std::set<std::array<int, 3>> listed;  // slot, KV head, block
  for (const Tile& tile : tiles_)
    for (const Run& run : plan_.RunsOf(tile))
      for (int i = 0; i < run.count; ++i)
        listed.insert({tile.seq, tile.head / c.group, run.first + i});

  std::vector<float> keys(static_cast<size_t>(kBlockTokens) * c.dim), values(keys.size());
  const Mat k(keys.data(), kBlockTokens, c.dim), v(values.data(), kBlockTokens, c.dim);
  for (const auto& [slot, head, block] : listed) {
    kv_->Map(slot, (*view().heads)[head].cls, block);
    Random random(seed + static_cast<uint64_t>((block * 64 + slot) * 64 + head));
    FillNormal(k, 1, &random);
    FillNormal(v, 1, &random);
    const int kv_len = c.seqs[c.seqs.size() - static_cast<size_t>(slot)].kv_len;
    std::byte* slice = view().Slice(slot, head, block);
    for (int t = 0; t < std::min(kBlockTokens, kv_len - block * kBlockTokens); ++t) {
      view().codec.EncodeK(k.Row(t), t, slice);
      view().codec.EncodeV(v.Row(t), t, slice);
    }
  }
}

Mat AttnProblem::NewOutput() {
  outputs_.emplace_back(q_data_.size(), std::numeric_limits<float>::quiet_NaN());
  return Mat(outputs_.back().data(), q_.rows, q_.cols, q_.stride);
}

}  // namespace lserve::cases
