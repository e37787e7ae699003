// The two pools of KV pages and the page tables of all sequence slots. A page holds 64 tokens; a
// retrieval page id names the same place in every layer, whose arrays are as wide as the layer's
// number of retrieval heads; likewise for streaming. A sequence holds retrieval pages for all its
// tokens and, of the streaming pool, only what its window still needs. Pages are reference-counted:
// a page with more than one owner is never written. Full pages can be shared between sequences and
// held by the prefix cache (kv/prefix_cache.h), which gives idle ones back on demand.
//
// Pages lie in a Memory of the backend's choice; the tables' master copy is on the host, and a
// device reads a mirror that UploadTables refreshes.
//
// One thread (the engine's).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/memory.h"
#include "core/status.h"
#include "plan/head_map.h"
#include "plan/kv_codec.h"
#include "plan/kv_view.h"

namespace lserve {

struct KvCacheConfig {
  std::vector<HeadMap> layers;
  KvCodec codec;
  KeyStats stats;             // dim == codec.dim()
  int max_slots = 0;          // sequences at a time
  int max_blocks = 0;         // longest sequence, in blocks
  int64_t pages[2] = {0, 0};  // by HeadClass; pages of a class that no layer has take no memory
  bool poison_freed = false;  // fill freed pages with NaN, so that reading one shows (tests)
  Memory* memory = nullptr;   // of the pages; null: the host's. Must outlive the cache
};

// Bytes of one page over all layers, statistics included.
int64_t PageBytes(const KvCacheConfig& config, HeadClass cls);

// The pages of one sequence, copied out of the pools (preemption). Table entries that had no page
// stay without.
struct SwappedPages {
  std::vector<int32_t> blocks[2];  // block numbers that have contents, by class
  std::vector<std::byte> bytes;    // page after page, all layers, statistics included
};

class KvCache {
 public:
  // Throws std::bad_alloc when the memory does not hold the pools.
  explicit KvCache(KvCacheConfig config);

  // -1 when all slots are taken.
  int AllocateSlot();
  // Gives back the slot and all its pages.
  void FreeSlot(int slot);

  // Makes sure that the slot has pages for tokens [0, len) that are not released, in both pools.
  // False, and nothing changed, when a pool has too few free pages.
  bool Extend(int slot, int len);
  // Pages that Extend would take from a pool.
  int64_t PagesNeeded(int slot, int len, HeadClass cls) const;
  // Releases the streaming pages of blocks [first, end).
  void ReleaseStreaming(int slot, int first, int end);

  // Frees the slot's pages, keeps the slot. Retrieval pages of blocks before `retrieval_from` are
  // not copied: they come from the prefix cache again, or are computed anew.
  SwappedPages SwapOut(int slot, int retrieval_from = 0);
  // The slot holds nothing but the blocks that SwapOut did not copy. False, and nothing changed,
  // when there are too few pages.
  bool SwapIn(int slot, const SwappedPages& pages);
  // Drops the slot's streaming pages and forgets which were released.
  void ClearStreaming(int slot);

  // For the prefix cache. A page that is shared or held is full.
  int32_t Page(HeadClass cls, int slot, int block) const;  // or kNoPage
  // The slot's block is on `page` from now on, beside the owners it has.
  void Share(HeadClass cls, int slot, int block, int32_t page);
  void Hold(HeadClass cls, int32_t page);  // REQUIRES: not held yet
  // A page with these bytes that is held and idle; kNoPage when no page is free.
  int32_t HoldNew(HeadClass cls, const std::byte* bytes);
  // Copies the page's bytes, PageBytes of them.
  void CopyOut(HeadClass cls, int32_t page, std::byte* to) const;
  void Unhold(HeadClass cls, int32_t page);      // frees the page when there is no other owner
  bool idle(HeadClass cls, int32_t page) const;  // the prefix cache alone owns it

  // Pointers are the memory's: on a device only its kernels may follow them, tables included.
  KvView View(int layer) const;
  // Brings the device's tables up to date; nothing to do on the host. Call before work that reads
  // them is launched.
  void UploadTables();
  const KvCacheConfig& config() const { return config_; }
  int64_t free_pages(HeadClass cls) const;
  int64_t idle_pages(HeadClass cls) const;  // of the prefix cache alone
  int64_t total_pages(HeadClass cls) const { return config_.pages[static_cast<int>(cls)]; }

  // Every page is free once or owned as often as counted (by tables and the prefix cache), tables
  // name only owned pages. The error names the page. Run when idle and in tests.
  Status CheckIntegrity() const;

 private:
  struct Pool;
  Pool& pool(HeadClass cls) const { return *pools_[static_cast<int>(cls)]; }
  int32_t& Entry(HeadClass cls, int slot, int block);  // marks the slot's row as changed
  void DropPage(HeadClass cls, int slot, int block);
  void Poison(HeadClass cls, int32_t page);
  std::vector<Memory::Piece> Pieces(HeadClass cls, int32_t page) const;
  const std::byte* CopyIn(HeadClass cls, int32_t page, const std::byte* from);

  KvCacheConfig config_;
  std::shared_ptr<Pool> pools_[2];
  std::vector<bool> slot_used_;
  // Streaming blocks [begin, end) of the slot are released.
  std::vector<int> released_begin_, released_end_;
};

}  // namespace lserve
