#include "kv/kv_cache.h"

#include <algorithm>

#include "kv/page_pool.h"

namespace lserve {
namespace {

constexpr HeadClass kClasses[] = {HeadClass::kRetrieval, HeadClass::kStreaming};

// Of a head's slice: retrieval heads alone are selected for.
size_t StatsBytes(const KvCacheConfig& config, HeadClass cls) {
  return cls == HeadClass::kRetrieval ? config.stats.slice_bytes() : 0;
}

int Blocks(int len) { return (len + kBlockTokens - 1) / kBlockTokens; }

}  // namespace

int64_t PageBytes(const KvCacheConfig& config, HeadClass cls) {
  int64_t heads = 0;
  for (const HeadMap& layer : config.layers) heads += layer.count(cls);
  return heads * static_cast<int64_t>(config.codec.slice_bytes() + StatsBytes(config, cls));
}

struct KvCache::Pool {
  explicit Pool(int64_t pages) : ids(pages) {}
  PagePool ids;
  Block bytes, stats;
  std::vector<int64_t> layer_offset, stats_offset;  // bytes from the start
  std::vector<int64_t> page_bytes, stats_bytes;     // of one page in one layer
  std::vector<int32_t> table;                       // [slot][max_blocks]
  Block mirror;                                     // of `table`, unless memory is the host's
  std::vector<bool> changed;                        // by slot: the mirror is out of date
};

KvCache::KvCache(KvCacheConfig config)
    : config_(std::move(config)),
      slot_used_(static_cast<size_t>(config_.max_slots)),
      released_begin_(slot_used_.size()),
      released_end_(slot_used_.size()) {
  CHECK(config_.stats.dim == config_.codec.dim());
  if (config_.memory == nullptr) config_.memory = &HostMemory();
  for (HeadClass cls : kClasses) {
    auto pool = std::make_shared<Pool>(total_pages(cls));
    int64_t bytes = 0, stats = 0;
    for (const HeadMap& layer : config_.layers) {
      pool->layer_offset.push_back(bytes);
      pool->stats_offset.push_back(stats);
      pool->page_bytes.push_back(layer.count(cls) *
                                 static_cast<int64_t>(config_.codec.slice_bytes()));
      pool->stats_bytes.push_back(layer.count(cls) *
                                  static_cast<int64_t>(StatsBytes(config_, cls)));
      bytes += pool->page_bytes.back() * total_pages(cls);
      stats += pool->stats_bytes.back() * total_pages(cls);
    }
    pool->bytes = Block(config_.memory, static_cast<size_t>(bytes));
    pool->stats = Block(config_.memory, static_cast<size_t>(stats));
    pool->table.assign(
        static_cast<size_t>(config_.max_slots) * static_cast<size_t>(config_.max_blocks), kNoPage);
    if (!config_.memory->host())
      pool->mirror = Block(config_.memory, pool->table.size() * sizeof(int32_t));
    pool->changed.assign(slot_used_.size(), true);
    pools_[static_cast<int>(cls)] = std::move(pool);
  }
}

int KvCache::AllocateSlot() {
  const auto free = std::find(slot_used_.begin(), slot_used_.end(), false);
  if (free == slot_used_.end()) return -1;
  *free = true;
  const size_t slot = static_cast<size_t>(free - slot_used_.begin());
  released_begin_[slot] = released_end_[slot] = 0;
  return static_cast<int>(slot);
}

int32_t& KvCache::Entry(HeadClass cls, int slot, int block) {
  Pool& p = pool(cls);
  p.changed[static_cast<size_t>(slot)] = true;
  return p.table[static_cast<size_t>(slot) * static_cast<size_t>(config_.max_blocks) +
                 static_cast<size_t>(block)];
}

void KvCache::DropPage(HeadClass cls, int slot, int block) {
  Pool& p = pool(cls);
  const int32_t page = Page(cls, slot, block);
  if (page == kNoPage) return;
  if (p.ids.DropOwner(page)) Poison(cls, page);
  Entry(cls, slot, block) = kNoPage;
}

void KvCache::Poison(HeadClass cls, int32_t page) {
  if (!config_.poison_freed) return;
  const Pool& p = pool(cls);
  for (size_t layer = 0; layer < config_.layers.size(); ++layer) {
    std::byte* bytes = p.bytes.data() + p.layer_offset[layer] + page * p.page_bytes[layer];
    config_.memory->Fill(bytes, std::byte{0xff}, static_cast<size_t>(p.page_bytes[layer]));
  }
}

int32_t KvCache::Page(HeadClass cls, int slot, int block) const {
  return pool(cls).table[static_cast<size_t>(slot) * static_cast<size_t>(config_.max_blocks) +
                         static_cast<size_t>(block)];
}

void KvCache::Share(HeadClass cls, int slot, int block, int32_t page) {
  pool(cls).ids.AddOwner(page);
  DropPage(cls, slot, block);
  Entry(cls, slot, block) = page;
}

void KvCache::Hold(HeadClass cls, int32_t page) { pool(cls).ids.Hold(page); }

int32_t KvCache::HoldNew(HeadClass cls, const std::byte* bytes) {
  PagePool& ids = pool(cls).ids;
  if (ids.free() == 0) return kNoPage;
  const int32_t page = ids.Allocate();
  ids.Hold(page);
  ids.DropOwner(page);
  CopyIn(cls, page, bytes);
  return page;
}

void KvCache::Unhold(HeadClass cls, int32_t page) {
  if (pool(cls).ids.Unhold(page)) Poison(cls, page);
}

bool KvCache::idle(HeadClass cls, int32_t page) const {
  const PagePool& ids = pool(cls).ids;
  return ids.held(page) && ids.owners(page) == 1;
}

void KvCache::FreeSlot(int slot) {
  for (HeadClass cls : kClasses)
    for (int b = 0; b < config_.max_blocks; ++b) DropPage(cls, slot, b);
  slot_used_[static_cast<size_t>(slot)] = false;
}

int64_t KvCache::PagesNeeded(int slot, int len, HeadClass cls) const {
  const Pool& p = pool(cls);
  const int32_t* row = p.table.data() + static_cast<int64_t>(slot) * config_.max_blocks;
  int64_t needed = 0;
  const size_t s = static_cast<size_t>(slot);
  for (int b = 0; b < Blocks(len); ++b) {
    const bool released =
        cls == HeadClass::kStreaming && b >= released_begin_[s] && b < released_end_[s];
    needed += row[b] == kNoPage && !released;
  }
  return needed;
}

bool KvCache::Extend(int slot, int len) {
  CHECK(Blocks(len) <= config_.max_blocks);
  for (HeadClass cls : kClasses)
    if (PagesNeeded(slot, len, cls) > pool(cls).ids.free()) return false;
  const size_t s = static_cast<size_t>(slot);
  for (HeadClass cls : kClasses) {
    const int32_t* row = pool(cls).table.data() + static_cast<int64_t>(slot) * config_.max_blocks;
    for (int b = 0; b < Blocks(len); ++b) {
      const bool released =
          cls == HeadClass::kStreaming && b >= released_begin_[s] && b < released_end_[s];
      if (row[b] == kNoPage && !released) Entry(cls, slot, b) = pool(cls).ids.Allocate();
    }
  }
  return true;
}

void KvCache::ReleaseStreaming(int slot, int first, int end) {
  const size_t s = static_cast<size_t>(slot);
  if (end <= std::max(first, released_end_[s])) return;
  const int begin = std::max(first, released_end_[s]);
  for (int b = begin; b < std::min(end, config_.max_blocks); ++b)
    DropPage(HeadClass::kStreaming, slot, b);
  if (released_end_[s] == 0) released_begin_[s] = first;
  released_end_[s] = end;
}

void KvCache::ClearStreaming(int slot) {
  for (int b = 0; b < config_.max_blocks; ++b) DropPage(HeadClass::kStreaming, slot, b);
  released_begin_[static_cast<size_t>(slot)] = released_end_[static_cast<size_t>(slot)] = 0;
}

// What a page is made of: layer after layer, contents then statistics.
std::vector<Memory::Piece> KvCache::Pieces(HeadClass cls, int32_t page) const {
  const Pool& p = pool(cls);
  std::vector<Memory::Piece> pieces;
  const auto add = [&](const Block& block, int64_t offset, int64_t bytes) {
    if (bytes > 0)
      pieces.push_back({block.data() + offset + page * bytes, static_cast<size_t>(bytes)});
  };
  for (size_t layer = 0; layer < config_.layers.size(); ++layer) {
    add(p.bytes, p.layer_offset[layer], p.page_bytes[layer]);
    add(p.stats, p.stats_offset[layer], p.stats_bytes[layer]);
  }
  return pieces;
}

void KvCache::CopyOut(HeadClass cls, int32_t page, std::byte* to) const {
  config_.memory->CopyOut(to, Pieces(cls, page));
}

const std::byte* KvCache::CopyIn(HeadClass cls, int32_t page, const std::byte* from) {
  config_.memory->CopyIn(Pieces(cls, page), from);
  return from + PageBytes(config_, cls);
}

SwappedPages KvCache::SwapOut(int slot, int retrieval_from) {
  SwappedPages out;
  for (HeadClass cls : kClasses) {
    for (int b = 0; b < config_.max_blocks; ++b) {
      const int32_t page = Page(cls, slot, b);
      if (page == kNoPage) continue;
      if (cls == HeadClass::kStreaming || b >= retrieval_from) {
        out.blocks[static_cast<int>(cls)].push_back(b);
        const size_t before = out.bytes.size();
        out.bytes.resize(before + static_cast<size_t>(PageBytes(config_, cls)));
        CopyOut(cls, page, out.bytes.data() + before);
      }
      DropPage(cls, slot, b);
    }
  }
  return out;
}

bool KvCache::SwapIn(int slot, const SwappedPages& pages) {
  for (HeadClass cls : kClasses)
    if (static_cast<int64_t>(pages.blocks[static_cast<int>(cls)].size()) > free_pages(cls))
      return false;
  const std::byte* from = pages.bytes.data();
  for (HeadClass cls : kClasses) {
    for (int32_t b : pages.blocks[static_cast<int>(cls)]) {
      CHECK(Page(cls, slot, b) == kNoPage);
      const int32_t page = pool(cls).ids.Allocate();
      Entry(cls, slot, b) = page;
      from = CopyIn(cls, page, from);
    }
  }
  CHECK(from == pages.bytes.data() + pages.bytes.size());
  // What the sequence had released stays released.
  const std::vector<int32_t>& retrieval = pages.blocks[0];
  const std::vector<int32_t>& streaming = pages.blocks[1];
  const size_t s = static_cast<size_t>(slot);
  released_begin_[s] = released_end_[s] = 0;
  for (size_t i = 0; i < streaming.size(); ++i) {
    const int32_t expected = i == 0 ? 0 : streaming[i - 1] + 1;
    if (streaming[i] != expected) released_begin_[s] = expected, released_end_[s] = streaming[i];
  }
  CHECK(streaming.empty() || retrieval.empty() || streaming.back() == retrieval.back());
  return true;
}

KvView KvCache::View(int layer) const {
  const size_t l = static_cast<size_t>(layer);
  KvView view;
  view.heads = &config_.layers[l];
  view.codec = config_.codec;
  view.stats = config_.stats;
  for (HeadClass cls : kClasses) {
    const Pool& p = pool(cls);
    PoolView& out = view.pools[static_cast<int>(cls)];
    out.pages = p.bytes.data() + p.layer_offset[l];
    out.page_bytes = p.page_bytes[l];
    if (StatsBytes(config_, cls) > 0) {
      out.stats = reinterpret_cast<uint16_t*>(p.stats.data() + p.stats_offset[l]);
      out.stats_page_elements = p.stats_bytes[l] / 2;
    }
    out.table = config_.memory->host() ? p.table.data() : p.mirror.as<int32_t>();
    out.table_stride = config_.max_blocks;
  }
  return view;
}

void KvCache::UploadTables() {
  if (config_.memory->host()) return;
  const size_t row = static_cast<size_t>(config_.max_blocks);
  for (HeadClass cls : kClasses) {
    Pool& p = pool(cls);
    for (size_t slot = 0; slot < p.changed.size(); ++slot) {
      if (!p.changed[slot]) continue;
      config_.memory->CopyIn(p.mirror.data() + slot * row * sizeof(int32_t),
                             p.table.data() + slot * row, row * sizeof(int32_t));
      p.changed[slot] = false;
    }
  }
}

int64_t KvCache::free_pages(HeadClass cls) const { return pool(cls).ids.free(); }
int64_t KvCache::idle_pages(HeadClass cls) const { return pool(cls).ids.idle(); }

Status KvCache::CheckIntegrity() const {
  for (HeadClass cls : kClasses) {
    const Pool& p = pool(cls);
    std::vector<int32_t> owners(static_cast<size_t>(p.ids.total()));
    for (size_t i = 0; i < p.table.size(); ++i) {
      const int32_t page = p.table[i];
      if (page == kNoPage) continue;
      const size_t slot = i / static_cast<size_t>(config_.max_blocks);
      if (page < 0 || page >= p.ids.total())
        return Internal("slot {} names page {} of {}", slot, page, p.ids.total());
      if (!slot_used_[slot]) return Internal("free slot {} holds page {}", slot, page);
      ++owners[static_cast<size_t>(page)];
    }
    if (Status s = p.ids.Check(owners); !s.ok())
      return s.Annotate(cls == HeadClass::kRetrieval ? "retrieval pool" : "streaming pool");
  }
  return Ok();
}

}  // namespace lserve
