// A host view's pages, as far as a call names them, copied into device memory under new numbers;
// every other table entry names a page that holds nothing but NaN.
#pragma once

#include <map>
#include <span>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "kernels/cuda/device_view.h"
#include "kernels/device.h"
#include "plan/kv_view.h"

namespace lserve {

class DevicePages {
 public:
  // `slots`: rows of the tables. Blocks are named by (slot, KV head, block); the whole page comes.
  struct Name {
    int slot, kv_head, block;
  };
  DevicePages(Device* device, const KvView& host, int slots, std::span<const Name> blocks);

  const cuda::DeviceView& view() const { return view_; }
  // Brings the pages back, after kernels that write them.
  void CopyBack();

 private:
  struct Pool {
    std::map<int32_t, int32_t> number;  // host page -> device page; page 0 is the poisoned one
    Block pages, stats, table;
  };
  Device* device_;
  KvView host_;
  Pool pools_[2];
  cuda::DeviceView view_;
};

}  // namespace lserve
