#include "kernels/device_pages.h"

#include "kernels/cuda/to_device.h"

namespace lserve {

DevicePages::DevicePages(Device* device, const KvView& host, int slots,
                         std::span<const Name> blocks)
    : device_(device), host_(host) {
  KvView view = host;
  for (int c : {0, 1}) {
    Pool& pool = pools_[c];
    const PoolView& from = host.pools[c];
    std::vector<int32_t> table(static_cast<size_t>(slots) * static_cast<size_t>(from.table_stride),
                               0);
    for (const Name& b : blocks) {
      if (static_cast<int>((*host.heads)[b.kv_head].cls) != c) continue;
      const int64_t entry = b.slot * from.table_stride + b.block;
      const int32_t page = from.table[entry];
      if (page == kNoPage) continue;
      const auto [found, added] =
          pool.number.try_emplace(page, static_cast<int32_t>(pool.number.size()) + 1);
      table[static_cast<size_t>(entry)] = found->second;
    }
    const size_t pages = pool.number.size() + 1;
    const size_t page_bytes = static_cast<size_t>(from.page_bytes);
    const size_t stats_bytes = from.stats ? static_cast<size_t>(from.stats_page_elements) * 2 : 0;
    pool.pages = Block(device, pages * page_bytes + 1);
    device->Fill(pool.pages.data(), std::byte{0xff}, page_bytes);
    pool.stats = Block(device, pages * stats_bytes + 1);
    device->Fill(pool.stats.data(), std::byte{0xff}, stats_bytes);
    for (const auto& [page, number] : pool.number) {
      device->CopyIn(pool.pages.data() + static_cast<size_t>(number) * page_bytes,
                     from.pages + page * from.page_bytes, page_bytes);
      if (stats_bytes > 0)
        device->CopyIn(pool.stats.data() + static_cast<size_t>(number) * stats_bytes,
                       from.stats + page * from.stats_page_elements, stats_bytes);
    }
    pool.table = Block(device, table.size() * 4 + 1);
    device->CopyIn(pool.table.data(), table.data(), table.size() * 4);
    view.pools[c].pages = pool.pages.data();
    view.pools[c].stats = from.stats ? pool.stats.as<uint16_t>() : nullptr;
    view.pools[c].table = pool.table.as<int32_t>();
  }
  view_ = cuda::ToDevice(view);
}

void DevicePages::CopyBack() {
  for (int c : {0, 1}) {
    const PoolView& to = host_.pools[c];
    const size_t page_bytes = static_cast<size_t>(to.page_bytes);
    const size_t stats_bytes = to.stats ? static_cast<size_t>(to.stats_page_elements) * 2 : 0;
    for (const auto& [page, number] : pools_[c].number) {
      device_->CopyOut(to.pages + page * to.page_bytes,
                       pools_[c].pages.data() + static_cast<size_t>(number) * page_bytes,
                       page_bytes);
      if (stats_bytes > 0)
        device_->CopyOut(to.stats + page * to.stats_page_elements,
                         pools_[c].stats.data() + static_cast<size_t>(number) * stats_bytes,
                         stats_bytes);
    }
  }
}

}  // namespace lserve
