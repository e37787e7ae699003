#include "core/memory.h"

#include <cstring>
#include <new>
#include <utility>

#include "core/buffer.h"

namespace lserve {
namespace {

// No bytes may come with a null pointer, which memcpy is not allowed to get.
class Host : public Memory {
 public:
  bool host() const override { return true; }
  using Memory::CopyIn;
  using Memory::CopyOut;
  std::byte* Allocate(size_t bytes) override { return MapMemory(bytes); }
  void Free(std::byte* data, size_t bytes) override { UnmapMemory(data, bytes); }
  void CopyIn(std::byte* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void CopyOut(void* to, const std::byte* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void Fill(std::byte* to, std::byte value, size_t bytes) override {
    if (bytes > 0) std::memset(to, static_cast<int>(value), bytes);
  }
};

}  // namespace

Memory& HostMemory() {
  static Host host;
  return host;
}

Block::Block(Memory* memory, size_t bytes) : memory_(memory), size_(bytes) {
  if (bytes == 0) return;
  data_ = memory->Allocate(bytes);
  if (data_ == nullptr) throw std::bad_alloc();
}

Block::Block(Block&& other) noexcept
    : memory_(other.memory_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

Block& Block::operator=(Block&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Block::~Block() {
  if (data_) memory_->Free(data_, size_);
}

}  // namespace lserve
