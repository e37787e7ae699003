// A block of the prefix cache's tree. For the files of prefix_cache.h alone.
#pragma once

#include <cstdint>

#include "kv/prefix_cache.h"

namespace lserve {

struct PrefixCache::Node {
  BlockHash name;
  Node* parent = nullptr;  // null: the first block
  int block = 0;
  int children = 0;
  int32_t pages[2] = {kNoPage, kNoPage};  // the streaming one may be gone
  bool dense = false;
  bool marked = false;    // a checkpoint ends here
  int32_t needed = 0;     // checkpoints that need the streaming page
  bool wanted = false;    // it was ever needed
  uint64_t used = 0;      // clock of the last use
  uint64_t number = 0;    // in order of creation
  uint64_t inserter = 0;  // owner of the path that brought it
  bool listed = false;    // for the store, or from it
  bool in_leaves = false, in_loose = false;

  int32_t streaming() const { return pages[static_cast<int>(HeadClass::kStreaming)]; }
  int32_t retrieval() const { return pages[static_cast<int>(HeadClass::kRetrieval)]; }
};

}  // namespace lserve
