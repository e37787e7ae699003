// One pool of page ids with reference counts. Ids only: memory and tables are KvCache's. The prefix
// cache can be one of a page's owners; pages that nobody else owns are idle: they can be had by
// taking them from it. One thread.
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
  int32_t owners(int32_t page) const { return owners_[static_cast<size_t>(page)]; }

  // The prefix cache becomes an owner, or ceases to be (then as DropOwner).
  void Hold(int32_t page);
  bool Unhold(int32_t page);
  bool held(int32_t page) const { return held_[static_cast<size_t>(page)]; }
  int64_t idle() const { return idle_; }

  // Compares the counts with `owners`, made by walking the tables. The error names the page.
  Status Check(const std::vector<int32_t>& owners) const;

 private:
  std::vector<int32_t> owners_;  // by page, the prefix cache included; 0: free
  std::vector<bool> held_;       // by page: the prefix cache is an owner
  int64_t idle_ = 0;             // held pages with no other owner
  std::vector<int32_t> free_;    // last in, first out: pages that were touched are used again first
};

}  // namespace lserve
