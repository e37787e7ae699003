#include "core/memory.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <new>
#include <optional>
#include <string>
#include <string_view>
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
  std::byte* AllocateHost(size_t bytes) override { return MapMemory(bytes); }
  void FreeHost(std::byte* data, size_t bytes) override { UnmapMemory(data, bytes); }
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

// The number behind the name in a file of the kernel's; nothing when it is not there.
std::optional<size_t> NumberIn(const char* path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name)) continue;
    size_t number = 0;
    if (std::sscanf(line.c_str() + name.size(), "%zu", &number) == 1) return number;
  }
  return std::nullopt;
}

}  // namespace

size_t AvailableHostBytes() {
  size_t most = std::numeric_limits<size_t>::max();
  if (const auto kib = NumberIn("/proc/meminfo", "MemAvailable:")) most = *kib * 1024;
  const auto limit = NumberIn("/sys/fs/cgroup/memory.max", ""),
             used = NumberIn("/sys/fs/cgroup/memory.current", "");
  if (!limit || !used) return most;
  size_t kept = *used;
  for (const char* files : {"active_file ", "inactive_file "})  // go when room is needed
    kept -= std::min(kept, NumberIn("/sys/fs/cgroup/memory.stat", files).value_or(0));
  return std::min(most, *limit - std::min(*limit, kept));
}

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
