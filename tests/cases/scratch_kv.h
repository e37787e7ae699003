// One layer's KV pages for tests and benchmarks, without the engine's cache: shuffled page ids,
// more pages than anybody uses, and all memory 0xff at first, which is NaN in every codec (elements
// of kv32 and kv16, scales and minima of kv8 and kv4) and in the statistics. What a kernel must not
// read therefore shows in its result.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "plan/kv_view.h"

namespace lserve::cases {

class ScratchKv {
 public:
  // `slots` rows of page tables, each `max_blocks` long and empty.
  ScratchKv(HeadMap heads, KvCodec codec, KeyStats stats, int slots, int max_blocks, uint64_t seed);
  ScratchKv(const ScratchKv&) = delete;
  ScratchKv& operator=(const ScratchKv&) = delete;

  const KvView& view() const { return view_; }
  // Gives the block a page for all heads of a class, with empty statistics, unless it has one.
  void Map(int slot, HeadClass cls, int block);
  // The same for both classes and all blocks of tokens [0, len).
  void MapTokens(int slot, int len);
  // Makes a slice NaN again.
  void Poison(int slot, int kv_head, int block);

 private:
  HeadMap heads_;
  int max_blocks_;
  Buffer pages_[2], stats_;
  std::vector<int32_t> tables_[2], free_[2];
  KvView view_;
};

}  // namespace lserve::cases
