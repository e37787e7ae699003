// Pages of the prefix cache in host memory: what the page pools had to give away. It pays where the
// pools are a GPU's. Bounded: the longest unused blocks go first, of those used together the later
// ones, so that no block stays whose predecessor is gone from everywhere. A page stays here when it
// is copied back, so that it need not be copied out again. One thread, the engine's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "core/memory.h"
#include "core/status.h"
#include "kv/prefix_tier.h"

namespace lserve {

class HostPages : public PrefixTier {
 public:
  // `page_bytes`: of whole pages, by HeadClass. `memory`: the pools', which outlives this. Errors
  // name --prefix-cache-host-gb and what would fit.
  static Result<std::unique_ptr<HostPages>> Create(int64_t limit_bytes,
                                                   const int64_t (&page_bytes)[2], Memory* memory);
  ~HostPages() override;

  // Where the page is to be copied; null when it is there, or everything else was used later.
  std::byte* Add(const BlockHash& name, int32_t block, HeadClass cls, uint64_t used);

  bool Has(const BlockHash& name, HeadClass cls) const override;
  const std::byte* Load(const BlockHash& name, HeadClass cls, uint64_t used) override;
  void Use(const BlockHash& name, uint64_t used) override;

  int64_t blocks() const { return static_cast<int64_t>(entries_.size()); }
  int64_t bytes() const { return bytes_; }  // of pages

  // Every slot is free once or some block's. The error names the block.
  Status CheckIntegrity() const;

 private:
  // The memory is cut into slabs, a slab into slots for pages of one class; an empty slab is any
  // class's.
  struct Slab {
    int cls = -1;
    std::vector<std::byte*> free;
  };
  struct Entry {
    std::byte* pages[2] = {nullptr, nullptr};
    uint64_t used = 0;
    int32_t block = 0;
  };
  using Place = std::tuple<uint64_t, int32_t, BlockHash>;  // used, then later blocks first

  HostPages(const int64_t (&page_bytes)[2], int64_t slab_bytes, int64_t slabs, Memory* memory,
            std::byte* bytes);
  static Place PlaceOf(const BlockHash& name, const Entry& entry) {
    return {entry.used, -entry.block, name};
  }
  int64_t Slots(int cls) const { return slab_bytes_ / page_bytes_[cls]; }
  std::byte* Take(int cls);
  void Give(int cls, std::byte* slot);
  void Drop(const BlockHash& name);

  const std::array<int64_t, 2> page_bytes_;
  const int64_t slab_bytes_;
  Memory* const memory_;
  std::byte* const base_;
  std::vector<Slab> slabs_;
  std::set<size_t> open_[2];   // slabs of a class with free slots
  std::vector<size_t> empty_;  // slabs of no class
  std::unordered_map<BlockHash, Entry, BlockHashBits> entries_;
  std::set<Place> order_;
  int64_t bytes_ = 0;
};

}  // namespace lserve
