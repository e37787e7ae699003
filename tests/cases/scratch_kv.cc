#include "tests/cases/scratch_kv.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "core/check.h"

namespace lserve::cases {

ScratchKv::ScratchKv(HeadMap heads, KvCodec codec, KeyStats stats, int slots, int max_blocks,
                     uint64_t seed)
    : heads_(std::move(heads)), max_blocks_(max_blocks) {
  std::mt19937_64 random(seed);
  const int pages = slots * max_blocks + 3;
  view_.heads = &heads_;
  view_.codec = codec;
  view_.stats = stats;
  for (HeadClass cls : {HeadClass::kRetrieval, HeadClass::kStreaming}) {
    const int c = static_cast<int>(cls);
    PoolView& pool = view_.pools[c];
    pool.page_bytes = static_cast<int64_t>(codec.slice_bytes()) * heads_.count(cls);
    pages_[c] = Buffer(static_cast<size_t>(pool.page_bytes) * pages);
    if (pages_[c].size() > 0) std::memset(pages_[c].data(), 0xff, pages_[c].size());
    pool.pages = pages_[c].data();
    if (cls == HeadClass::kRetrieval) {
      pool.stats_page_elements = static_cast<int64_t>(stats.slice_bytes() / 2) * heads_.count(cls);
      stats_ = Buffer(static_cast<size_t>(pool.stats_page_elements) * 2 * pages);
      if (stats_.size() > 0) std::memset(stats_.data(), 0xff, stats_.size());
      if (stats_.size() > 0) pool.stats = stats_.as<uint16_t>();
    }
    tables_[c].assign(static_cast<size_t>(slots) * max_blocks, kNoPage);
    pool.table = tables_[c].data();
    pool.table_stride = max_blocks;
    free_[c].resize(static_cast<size_t>(pages));
    std::iota(free_[c].begin(), free_[c].end(), 0);
    std::shuffle(free_[c].begin(), free_[c].end(), random);
  }
}

void ScratchKv::Map(int slot, HeadClass cls, int block) {
  const int c = static_cast<int>(cls);
  CHECK(block < max_blocks_);
  int32_t& entry = tables_[c][static_cast<size_t>(slot) * max_blocks_ + block];
  if (entry != kNoPage) return;
  entry = free_[c].back();
  free_[c].pop_back();
}

void ScratchKv::MapTokens(int slot, int len) {
  for (int block = 0; block * kBlockTokens < len; ++block)
    for (HeadClass cls : {HeadClass::kRetrieval, HeadClass::kStreaming}) Map(slot, cls, block);
}

void ScratchKv::Poison(int slot, int kv_head, int block) {
  std::memset(view_.Slice(slot, kv_head, block), 0xff, view_.codec.slice_bytes());
}

}  // namespace lserve::cases
