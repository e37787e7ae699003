#include "core/buffer.h"

#include <sys/mman.h>

#include <new>

namespace lserve {

// Anonymous mappings are page aligned, zero and lazily committed.
Buffer::Buffer(size_t size) : size_(size) {
  if (size == 0) return;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, size, MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(memory);
}

Buffer::~Buffer() {
  if (data_) munmap(data_, size_);
}

}  // namespace lserve
