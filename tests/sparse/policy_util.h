// What the planner's tests share: the mask written from the definition of LServe, without runs,
// tiles or blocks of a plan; and a selector that chooses at random, so that plans are tested with
// lists that no scores would give.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "sparse/planner.h"

namespace lserve::testing {

inline constexpr HeadClass kR = HeadClass::kRetrieval, kS = HeadClass::kStreaming;

inline int BlockOf(int pos) { return pos / kBlockTokens; }

// Chooses k random blocks for every job; what it chose by (slot, layer, first query head).
class RandomSelector {
 public:
  explicit RandomSelector(uint64_t seed) : random_(seed) {}

  void Run(std::span<const SelectJob> jobs, int layer) {
    for (const SelectJob& job : jobs) {
      std::vector<int32_t> blocks;
      for (int b = job.first_block; b < job.end_block; ++b) blocks.push_back(b);
      std::shuffle(blocks.begin(), blocks.end(), random_);
      if (blocks.size() > static_cast<size_t>(job.k)) blocks.resize(static_cast<size_t>(job.k));
      std::sort(blocks.begin(), blocks.end());
      std::copy(blocks.begin(), blocks.end(), job.list);
      *job.count = static_cast<int32_t>(blocks.size());
      Choice& choice = choices_[{job.seq, layer, job.head}];
      choice.blocks = {blocks.begin(), blocks.end()};
      choice.first_block = job.first_block;
      choice.end_block = job.end_block;
    }
  }

  // A sequence reads the sink blocks, the chosen ones and everything from the end of the range of
  // candidates on.
  struct Choice {
    std::set<int32_t> blocks;
    int first_block = 0, end_block = 0;
    bool Has(int block) const {
      return block < first_block || block >= end_block || blocks.count(block) > 0;
    }
  };
  const Choice& For(int slot, int layer, int first_head) const {
    return choices_.at({slot, layer, first_head});
  }

 private:
  std::mt19937_64 random_;
  std::map<std::tuple<int, int, int>, Choice> choices_;
};

// Whether key k is visible to query i for query head `head`, from the definition (A5, A12).
struct Definition {
  const SparsityConfig& config;
  const HeadMap& map;
  int layer, group;
  const RandomSelector& selector;

  bool Selected(const SeqStep& s) const {
    const int len = s.pos + s.q_len;
    return s.decode && s.mode == AttentionMode::kLserve && len > config.dense_below &&
           BlockOf(len - 1) + 1 > s.budget / kBlockTokens;
  }
  bool Visible(const SeqStep& s, int head, int i, int k) const {
    if (k > i) return false;
    const int kv_head = head / group;
    if (map.streaming(kv_head)) {
      if (s.mode == AttentionMode::kDense) return true;
      const int sink = s.decode ? config.decode_sink : config.prefill_sink;
      const int local = s.decode ? config.decode_local : config.prefill_local;
      return k < sink || k > i - local;
    }
    if (!Selected(s)) return true;
    const int first_head = config.shared_lists ? kv_head * group : head;
    return selector.For(s.slot, layer, first_head).Has(BlockOf(k));
  }
};

// The plan is valid, every (row, query head) is in exactly one tile, and sees what it should.
inline void ExpectDefinition(const AttnPlan& plan, std::span<const SeqStep> steps,
                             const Definition& definition) {
  const Status status = Validate(plan);
  ASSERT_TRUE(status.ok()) << status.ToString();
  std::map<std::pair<int, int>, const SeqStep*> rows;  // (row, head) not yet seen
  for (const SeqStep& s : steps)
    for (int q = 0; q < s.q_len; ++q)
      for (int h = 0; h < plan.shape.num_q_heads; ++h) rows[{s.q_begin + q, h}] = &s;
  for (const Tile& tile : plan.tiles) {
    const auto mask = ToDenseMask(plan, tile);
    for (int h = tile.head; h < tile.head + plan.shape.heads_per_tile; ++h) {
      for (int q = 0; q < tile.q_len; ++q) {
        const auto row = rows.find({tile.q_begin + q, h});
        ASSERT_NE(row, rows.end()) << "row " << tile.q_begin + q << ", head " << h << " twice";
        const SeqStep& s = *row->second;
        ASSERT_EQ(tile.seq, s.slot);
        ASSERT_EQ(tile.kv_len, s.pos + s.q_len);
        const int i = s.pos + tile.q_begin + q - s.q_begin;
        ASSERT_EQ(tile.q_pos + q, i);
        for (int k = 0; k < tile.kv_len; ++k)
          ASSERT_EQ(mask[static_cast<size_t>(q)][static_cast<size_t>(k)],
                    definition.Visible(s, h, i, k))
              << "slot " << s.slot << ", head " << h << ", query " << i << ", key " << k;
        rows.erase(row);
      }
    }
  }
  ASSERT_TRUE(rows.empty()) << "no tile has row " << rows.begin()->first.first << ", head "
                            << rows.begin()->first.second;
}

// Runs one step through the planner, all layers, and holds each plan to the definition.
inline void PlanAndExpect(Planner* planner, std::span<const SeqStep> steps,
                          const SparsityConfig& config, const std::vector<HeadMap>& maps, int group,
                          RandomSelector* selector) {
  planner->Begin(steps);
  for (size_t layer = 0; layer < maps.size(); ++layer) {
    const int l = static_cast<int>(layer);
    selector->Run(planner->SelectJobs(l), l);
    ExpectDefinition(planner->Plan(l), steps, {config, maps[layer], l, group, *selector});
    if (::testing::Test::HasFatalFailure()) return;
  }
}

// Settings small enough that every part of the policy shows in a few hundred tokens.
inline SparsityConfig SmallConfig() {
  SparsityConfig c;
  c.prefill_sink = 64;
  c.prefill_local = 192;
  c.decode_sink = 64;
  c.decode_local = 64;
  c.budget = 256;
  c.selector_sink_pages = 1;
  c.selector_local_pages = 1;
  c.dense_below = 0;
  return c;
}

}  // namespace lserve::testing
