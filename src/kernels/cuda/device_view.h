// What kernels get of the waist, as plain data passed by value: the view of one layer's pages and
// the codec's numbers. Made on the host from KvView by ToDevice (to_device.h); every pointer is
// device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/tile.h"

namespace lserve::cuda {

inline constexpr int kMaxKvHeads = 64;

// KvCodec without its methods. Element orders and formulas: plan/kv_codec.h.
struct DeviceCodec {
  int k_bits, v_bits;  // 16, 8 or 4
  int dim;             // channels of a head
  int k_scale_offset;  // bytes from the slice's start; minima 128 bytes after the scales
  int v_offset, v_scale_offset;
  int slice_bytes;
};

struct DevicePool {
  std::byte* pages;             // [page][rank][slice bytes]
  int64_t page_bytes;           // of this layer
  uint16_t* stats;              // [page][rank][stats slice]; null without (plan/key_stats.h)
  int64_t stats_page_elements;  // elements from page to page
  const int32_t* table;         // [sequence slot][block] -> page id or kNoPage
  int64_t table_stride;
};

struct DeviceView {
  DeviceCodec codec;
  int logical_tokens;  // of a logical page
  int stats_bits;      // 16 or 8
  int stats_slice;     // 16-bit elements
  int kv_heads;
  DevicePool pools[2];              // by HeadClass
  uint8_t head_class[kMaxKvHeads];  // HeadClass of each KV head
  uint8_t head_rank[kMaxKvHeads];   // place among the heads of its class

#ifdef __CUDACC__
  __device__ int Page(int slot, int kv_head, int block) const {
    const DevicePool& p = pools[head_class[kv_head]];
    return p.table[slot * p.table_stride + block];
  }
  // REQUIRES: the block has a page.
  __device__ std::byte* Slice(int kv_head, int page) const {
    const DevicePool& p = pools[head_class[kv_head]];
    return p.pages + page * p.page_bytes +
           static_cast<int64_t>(head_rank[kv_head]) * codec.slice_bytes;
  }
  __device__ uint16_t* Stats(int kv_head, int page) const {
    const DevicePool& p = pools[head_class[kv_head]];
    if (p.stats == nullptr) return nullptr;
    return p.stats + page * p.stats_page_elements + head_rank[kv_head] * stats_slice;
  }
#endif
};

}  // namespace lserve::cuda
