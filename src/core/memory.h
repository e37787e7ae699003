// Where bulk data lies: the host, or a device that only its own kernels can read. Whoever holds
// bytes in a Memory moves them through it and dereferences them only where host() is true. One
// thread, the engine's. Copies are ordered with the device's work on the same thread: what was
// launched before a call sees the old bytes, what is launched after it the new ones.
#pragma once

#include <cstddef>
#include <span>

namespace lserve {

class Memory {
 public:
  struct Piece {
    std::byte* data;
    size_t bytes;
  };

  virtual ~Memory() = default;
  virtual bool host() const = 0;
  // Zeroed, 256-byte aligned; null when there is not enough. Free takes what Allocate gave, with
  // the same size.
  virtual std::byte* Allocate(size_t bytes) = 0;
  virtual void Free(std::byte* data, size_t bytes) = 0;
  // From the host into this memory. `from` may be reused at once.
  virtual void CopyIn(std::byte* to, const void* from, size_t bytes) = 0;
  // To the host; returns when the bytes are there.
  virtual void CopyOut(void* to, const std::byte* from, size_t bytes) = 0;
  // The same for many pieces whose bytes lie one behind the other on the host: a device pays for a
  // copy what a hundred kilobytes cost, and waits once.
  virtual void CopyIn(std::span<const Piece> to, const std::byte* from) {
    for (const Piece& piece : to) {
      CopyIn(piece.data, from, piece.bytes);
      from += piece.bytes;
    }
  }
  virtual void CopyOut(std::byte* to, std::span<const Piece> from) {
    for (const Piece& piece : from) {
      CopyOut(to, piece.data, piece.bytes);
      to += piece.bytes;
    }
  }
  virtual void Fill(std::byte* to, std::byte value, size_t bytes) = 0;

  // Host memory for the far end of copies, page-locked where that makes them faster; null when
  // there is not enough. Copies of pieces from and to it may still be under way when they return:
  // later copies are ordered behind them.
  virtual std::byte* AllocateHost(size_t bytes) = 0;
  virtual void FreeHost(std::byte* data, size_t bytes) = 0;
};

// Bytes of host memory that could be had now, as the system and the control group tell.
size_t AvailableHostBytes();

// Host memory, reserved without being touched: pages in use alone take physical memory.
Memory& HostMemory();

// Owns bytes of a Memory. Movable.
class Block {
 public:
  Block() = default;
  // Throws std::bad_alloc.
  Block(Memory* memory, size_t bytes);
  Block(Block&& other) noexcept;
  Block& operator=(Block&& other) noexcept;
  ~Block();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  Memory* memory_ = nullptr;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lserve
