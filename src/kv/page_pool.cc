#include "kv/page_pool.h"

namespace lserve {

PagePool::PagePool(int64_t pages)
    : owners_(static_cast<size_t>(pages)), held_(static_cast<size_t>(pages)) {
  for (int64_t i = pages - 1; i >= 0; --i) free_.push_back(static_cast<int32_t>(i));
}

int32_t PagePool::Allocate() {
  CHECK(!free_.empty());
  const int32_t page = free_.back();
  free_.pop_back();
  owners_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::AddOwner(int32_t page) {
  int32_t& owners = owners_[static_cast<size_t>(page)];
  CHECK(owners > 0);
  if (++owners == 2 && held(page)) --idle_;
}

bool PagePool::DropOwner(int32_t page) {
  int32_t& owners = owners_[static_cast<size_t>(page)];
  CHECK(owners > 0);
  if (--owners > 0) {
    if (owners == 1 && held(page)) ++idle_;
    return false;
  }
  CHECK(!held(page));
  free_.push_back(page);
  return true;
}

void PagePool::Hold(int32_t page) {
  CHECK(!held(page));
  AddOwner(page);
  held_[static_cast<size_t>(page)] = true;
}

bool PagePool::Unhold(int32_t page) {
  CHECK(held(page));
  if (owners(page) == 1) --idle_;
  held_[static_cast<size_t>(page)] = false;
  return DropOwner(page);
}

Status PagePool::Check(const std::vector<int32_t>& owners) const {
  for (size_t page = 0; page < owners_.size(); ++page) {
    if (owners[page] + held_[page] != owners_[page])
      return Internal("page {} has {} owners, the tables name it {} times, the prefix cache {}",
                      page, owners_[page], owners[page], held_[page] ? "holds it" : "does not");
  }
  std::vector<bool> seen(owners_.size());
  for (int32_t page : free_) {
    if (seen[static_cast<size_t>(page)]) return Internal("page {} is in the free list twice", page);
    if (owners_[static_cast<size_t>(page)] != 0) return Internal("page {} is free and owned", page);
    seen[static_cast<size_t>(page)] = true;
  }
  int64_t owned = 0, idle = 0;
  for (size_t page = 0; page < owners_.size(); ++page) {
    owned += owners_[page] > 0;
    idle += owners_[page] == 1 && held_[page];
  }
  if (idle != idle_) return Internal("{} pages are idle, {} are counted", idle, idle_);
  if (owned + free() != total())
    return Internal("{} pages owned and {} free of {}", owned, free(), total());
  return Ok();
}

}  // namespace lserve
