// One pool of page ids with reference counts. Ids only: memory and tables are KvCache's. One
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "core/status.h"

namespace lserve {

class PagePool {
 public:
  explicit PagePool(int64_t pages);

  int64_t total() const { return static_cast<int64_t>(owners_.size()); }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }

  // A page with one owner. REQUIRES: free() > 0.
  int32_t Allocate();
  void AddOwner(int32_t page);
  // True when the last owner left and the page became free.
  bool DropOwner(int32_t page);

  // Compares the counts with `owners`, made by walking the tables. The error names the page.
  Status Check(const std::vector<int32_t>& owners) const;

 private:
  std::vector<int32_t> owners_;  // by page; 0: free
  std::vector<int32_t> free_;    // last in, first out: pages that were touched are used again first
};

}  // namespace lserve
