// KvView -> DeviceView. Host code only.
#pragma once

#include "kernels/cuda/device_view.h"
#include "plan/kv_view.h"

namespace lserve::cuda {

// REQUIRES: at most kMaxKvHeads heads; no kv32.
inline DeviceView ToDevice(const KvView& view) {
  DeviceView out{};
  const KvCodec& c = view.codec;
  out.codec = {KvBits(c.k_type()),
               KvBits(c.v_type()),
               c.dim(),
               static_cast<int>(c.k_scale_offset()),
               static_cast<int>(c.v_offset()),
               static_cast<int>(c.v_scale_offset()),
               static_cast<int>(c.slice_bytes())};
  out.logical_tokens = view.stats.logical_tokens;
  out.stats_bits = view.stats.bits;
  out.stats_slice = static_cast<int>(view.stats.slice_bytes() / 2);
  out.kv_heads = view.heads->num_heads();
  for (int i : {0, 1}) {
    const PoolView& p = view.pools[i];
    out.pools[i] = {p.pages, p.page_bytes, p.stats, p.stats_page_elements, p.table, p.table_stride};
  }
  for (int h = 0; h < out.kv_heads; ++h) {
    out.head_class[h] = static_cast<uint8_t>((*view.heads)[h].cls);
    out.head_rank[h] = static_cast<uint8_t>((*view.heads)[h].rank);
  }
  return out;
}

}  // namespace lserve::cuda
