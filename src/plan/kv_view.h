// The waist, second fact: WHERE a block lives. One layer's pages behind page tables. Sharing,
// swapping and releasing pages change tables, never kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/head_map.h"
#include "plan/key_stats.h"
#include "plan/kv_codec.h"

namespace lserve {

// One pool as one layer sees it. A page id names the same slot in every layer.
struct PoolView {
  std::byte* pages = nullptr;       // [page][rank][slice bytes]
  int64_t page_bytes = 0;           // of this layer: heads of the class * slice bytes
  uint16_t* stats = nullptr;        // [page][rank][stats slice]; null without statistics
  int64_t stats_page_elements = 0;  // 16-bit elements from page to page
  const int32_t* table = nullptr;   // [sequence slot][block] -> page id or kNoPage
  int64_t table_stride = 0;         // blocks a table row can hold
};

struct KvView {
  const HeadMap* heads = nullptr;
  KvCodec codec;
  KeyStats stats;
  PoolView pools[2];  // indexed by HeadClass

  int32_t Page(int seq, int kv_head, int block) const {
    const PoolView& pool = pools[static_cast<int>((*heads)[kv_head].cls)];
    return pool.table[seq * pool.table_stride + block];
  }
  // The slice of a block, or null where the table has no page.
  std::byte* Slice(int seq, int kv_head, int block) const {
    const HeadSlot slot = (*heads)[kv_head];
    const PoolView& pool = pools[static_cast<int>(slot.cls)];
    const int32_t page = pool.table[seq * pool.table_stride + block];
    if (page == kNoPage) return nullptr;
    return pool.pages + page * pool.page_bytes +
           slot.rank * static_cast<int64_t>(codec.slice_bytes());
  }
  // The statistics of a block, or null where there are none.
  uint16_t* Stats(int seq, int kv_head, int block) const {
    const HeadSlot slot = (*heads)[kv_head];
    const PoolView& pool = pools[static_cast<int>(slot.cls)];
    if (pool.stats == nullptr) return nullptr;
    const int32_t page = pool.table[seq * pool.table_stride + block];
    if (page == kNoPage) return nullptr;
    return pool.stats + page * pool.stats_page_elements +
           slot.rank * static_cast<int64_t>(stats.slice_bytes() / 2);
  }
};

}  // namespace lserve
