// A model without weights, for tests of the engine (docs/structure.md, seam 3). Every token's
// keys and values are fingerprints of all that the token could see; attention reads them back
// through plan and view and mixes what is visible. So one wrong page, one missing or doubled token,
// one stale selection changes every later token. Pages that must not be read are poisoned with NaN
// by the cache; reading one, or a block without a page, is counted as damage.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "model/runner.h"

namespace lserve::testing {

inline uint64_t Mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
inline uint64_t Mix(uint64_t a, uint64_t b) { return Mix(a ^ Mix(b)); }

class NullRunner : public ModelRunner {
 public:
  static constexpr int kDim = 2, kVocab = 64;

  // With, logits are kept and candidates of them handed out, as a device does it.
  explicit NullRunner(bool picks = false) : picks_(picks) {}

  int vocab() const override { return kVocab; }
  int most_picks() const override { return picks_ ? 1000 : 0; }
  void ReadLogits(int row, std::span<float> logits) override {
    std::copy_n(kept_.data() + row * kVocab, kVocab, logits.data());
  }
  Status Health() override { return broken_ ? Internal("matmul [4, 64]: broken") : Ok(); }
  void Break() { broken_ = true; }
  int64_t damage() const { return damage_; }
  int most_rows() const { return most_rows_; }
  int64_t rows() const { return rows_; }  // all so far
  int most_logit_rows() const { return most_logit_rows_; }

  void Forward(const StepInput& in, Planner* planner, KvCache* cache, Mat logits) override {
    rows_ += static_cast<int64_t>(in.tokens.size());
    most_rows_ = std::max(most_rows_, static_cast<int>(in.tokens.size()));
    most_logit_rows_ = std::max(most_logit_rows_, static_cast<int>(in.logit_rows.size()));
    std::vector<uint64_t> h(in.tokens.size());
    for (size_t i = 0; i < h.size(); ++i)
      h[i] = Mix(static_cast<uint64_t>(in.tokens[i]), static_cast<uint64_t>(in.pos[i]));
    planner->Begin(in.sequences);
    const int layers = static_cast<int>(cache->config().layers.size());
    for (int l = 0; l < layers; ++l) {
      const KvView view = cache->View(l);
      Store(in, view, l, h);
      for (const SelectJob& job : planner->SelectJobs(l)) Select(job, view, h);
      std::vector<uint64_t> seen(h.size(), 0);
      Attend(planner->Plan(l), view, &seen);
      for (size_t i = 0; i < h.size(); ++i) h[i] = Mix(h[i], seen[i]);
    }
    if (picks_) {
      kept_.resize(in.logit_rows.size() * kVocab);
      logits = Mat(kept_.data(), static_cast<int>(in.logit_rows.size()), kVocab);
    }
    for (size_t r = 0; r < in.logit_rows.size(); ++r) {
      const uint64_t own = h[static_cast<size_t>(in.logit_rows[r])];
      for (int v = 0; v < kVocab; ++v)
        logits.Row(static_cast<int>(r))[v] =
            static_cast<float>(Mix(own, static_cast<uint64_t>(v)) >> 40) * 0x1p-22f;
    }
    if (picks_) Answer(in.picks);
  }

 private:
  void Answer(Picks* picks) {
    picks->best.clear();
    for (size_t r = 0; r < kept_.size(); r += kVocab) {
      const auto row = kept_.begin() + static_cast<ptrdiff_t>(r);
      picks->best.push_back(static_cast<int32_t>(std::max_element(row, row + kVocab) - row));
    }
    picks->answers.resize(picks->asks.size());
    picks->wanted_logits.resize(picks->wanted.size());
    for (size_t i = 0; i < picks->asks.size(); ++i) {
      const CandidateAsk& ask = picks->asks[i];
      const size_t begin = static_cast<size_t>(ask.wanted_begin);
      FindCandidates({kept_.data() + ask.row * kVocab, kVocab}, ask,
                     std::span(picks->wanted).subspan(begin, static_cast<size_t>(ask.wanted_count)),
                     &picks->answers[i], picks->wanted_logits.data() + begin);
    }
  }

  // Two 20-bit numbers, exact in float.
  static void Numbers(uint64_t x, float out[kDim]) {
    out[0] = static_cast<float>(x & 0xfffff);
    out[1] = static_cast<float>((x >> 20) & 0xfffff);
  }

  void Store(const StepInput& in, const KvView& view, int layer, const std::vector<uint64_t>& h) {
    for (size_t i = 0; i < h.size(); ++i) {
      for (int head = 0; head < view.heads->num_heads(); ++head) {
        const int block = in.pos[i] / kBlockTokens, token = in.pos[i] % kBlockTokens;
        std::byte* slice = view.Slice(in.seq[i], head, block);
        if (slice == nullptr) {
          ++damage_;
          continue;
        }
        const uint64_t place = static_cast<uint64_t>(layer * 16 + head);
        float k[kDim], v[kDim];
        Numbers(Mix(h[i], place), k);
        Numbers(Mix(h[i], place + 1000), v);
        view.codec.EncodeK(k, token, slice);
        view.codec.EncodeV(v, token, slice);
        if (uint16_t* stats = view.Stats(in.seq[i], head, block);
            stats && view.stats.Completes(token))
          view.stats.Store(view.codec, slice, token / view.stats.logical_tokens, stats);
      }
    }
  }

  // Ranks blocks by a hash of their key statistics and the query, so that wrong statistics show.
  void Select(const SelectJob& job, const KvView& view, const std::vector<uint64_t>& h) {
    std::vector<std::pair<uint64_t, int32_t>> ranked;
    for (int32_t b = job.first_block; b < job.end_block; ++b) {
      const uint16_t* stats = view.Stats(job.seq, job.head, b);
      uint64_t score = h[static_cast<size_t>(job.row)];
      if (stats == nullptr) {
        ++damage_;
      } else {
        for (size_t i = 0; i < view.stats.slice_bytes() / 2; ++i) score = Mix(score, stats[i]);
      }
      ranked.push_back({score, b});
    }
    std::sort(ranked.rbegin(), ranked.rend());
    if (ranked.size() > static_cast<size_t>(job.k)) ranked.resize(static_cast<size_t>(job.k));
    std::vector<int32_t> blocks;
    for (const auto& [score, b] : ranked) blocks.push_back(b);
    std::sort(blocks.begin(), blocks.end());
    std::copy(blocks.begin(), blocks.end(), job.list);
    *job.count = static_cast<int32_t>(blocks.size());
  }

  void Attend(const AttnPlan& plan, const KvView& view, std::vector<uint64_t>* seen) {
    const int group = plan.shape.num_q_heads / plan.shape.num_kv_heads;
    for (const Tile& tile : plan.tiles) {
      const int head = tile.head / group;
      for (const Run& run : plan.RunsOf(tile)) {
        for (int b = run.first; b < run.first + run.count; ++b) {
          const std::byte* slice = view.Slice(tile.seq, head, b);
          if (slice == nullptr) {
            ++damage_;
            continue;
          }
          for (int t = 0; t < kBlockTokens && b * kBlockTokens + t < tile.kv_len; ++t)
            AttendKey(tile, run, b * kBlockTokens + t, head, slice, view.codec, seen);
        }
      }
    }
  }

  void AttendKey(const Tile& tile, const Run& run, int pos, int head, const std::byte* slice,
                 const KvCodec& codec, std::vector<uint64_t>* seen) {
    float kv[2 * kDim];
    codec.DecodeK(slice, pos % kBlockTokens, kv);
    codec.DecodeV(slice, pos % kBlockTokens, kv + kDim);
    uint64_t key = Mix(static_cast<uint64_t>(pos), static_cast<uint64_t>(head));
    bool poisoned = false;
    for (float x : kv) {
      poisoned |= !std::isfinite(x);
      key = Mix(key, std::bit_cast<uint32_t>(x));
    }
    for (int i = 0; i < tile.q_len; ++i) {
      if (run.masked && !Visible(tile, tile.q_pos + i, pos)) continue;
      damage_ += poisoned;
      (*seen)[static_cast<size_t>(tile.q_begin + i)] += key;  // whatever the order of blocks
    }
  }

  const bool picks_;
  bool broken_ = false;
  std::vector<float> kept_;
  int64_t damage_ = 0, rows_ = 0;
  int most_rows_ = 0, most_logit_rows_ = 0;
};

}  // namespace lserve::testing
