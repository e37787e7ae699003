// Memory for tensors: 64-byte aligned, and for large pools reserved without being touched, so that
// only pages in use take physical memory.
#pragma once

#include <cstddef>
#include <utility>

namespace lserve {

// Zeroed and page aligned; null when there is not enough. REQUIRES: size > 0.
std::byte* MapMemory(size_t size);
void UnmapMemory(std::byte* data, size_t size);

// Owns `size` bytes, zero when made. Movable. Not resizable: make a new one.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size);
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lserve
