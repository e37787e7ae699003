#include "core/buffer.h"

#include <sys/mman.h>

#include <new>

namespace lserve {

// Anonymous mappings are page aligned, zero and lazily committed.
std::byte* MapMemory(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  madvise(memory, size, MADV_HUGEPAGE);
  return static_cast<std::byte*>(memory);
}

void UnmapMemory(std::byte* data, size_t size) { munmap(data, size); }

Buffer::Buffer(size_t size) : size_(size) {
  if (size == 0) return;
  data_ = MapMemory(size);
  if (data_ == nullptr) throw std::bad_alloc();
}

Buffer::~Buffer() {
  if (data_) UnmapMemory(data_, size_);
}

}  // namespace lserve
