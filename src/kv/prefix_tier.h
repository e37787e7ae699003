// A place behind the page pools where the prefix cache finds pages again: host memory
// (kv/host_pages.h), files (kv/prefix_store.h). Pages are named by their block's hash and their
// class. Implementations differ in how pages come there. One thread, the engine's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kv/block_hash.h"
#include "plan/head_map.h"

namespace lserve {

class PrefixTier {
 public:
  virtual ~PrefixTier() = default;

  // Whether Load may be tried.
  virtual bool Has(const BlockHash& name, HeadClass cls) const = 0;
  // The page's bytes, which stay until the next call of anything but Has and Use; null when they
  // are not there, or are not what they should be and are forgotten.
  virtual const std::byte* Load(const BlockHash& name, HeadClass cls, uint64_t used) = 0;
  // Nothing when the block is not there. `used`: a time that the caller counts; blocks that are
  // used together have the same, and of a chain of blocks none is older than a later one.
  virtual void Use(const BlockHash& name, uint64_t used) = 0;
};

}  // namespace lserve
