// Which blocks that were computed before can be had again: a tree of full blocks, from a prompt's
// first block down, named by kv/block_hash.h. The cache is a co-owner of the pages it knows; those
// that nobody else owns are idle, count as free, and are given back when somebody needs room.
//
// A retrieval head needs every block of a prefix, a streaming head only sinks and window. So a hit
// ends at the deepest block boundary at which the streaming pages that the next prompt token would
// see are still there, and what is beyond is computed again, a window at most at a time. While
// there is room every streaming page is kept and a hit may end anywhere. When there is none, pages
// go first that no *checkpoint* needs: ends of prompts and of answers, places where prompts part,
// and every so many blocks, each with some slack before it for prompts that come back a little
// shorter.
//
//   invariant: whoever owns the retrieval page of a block owns those of all blocks before it. So
//   idle retrieval pages can all be had by taking leaves, and counting them is enough to promise
//   them.
//
// One thread (the engine's).
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/status.h"
#include "kv/block_hash.h"
#include "kv/host_pages.h"
#include "kv/kv_cache.h"
#include "kv/prefix_store.h"

namespace lserve {

struct PrefixCacheConfig {
  int sink_blocks = 2;          // streaming blocks at the start that every prompt token sees
  int window_tokens = 8192;     // and tokens before it, itself included
  bool share_decoded = true;    // blocks that came about as answers too
  int slack_blocks = 8;         // a checkpoint keeps the windows of so many boundaries before it
  int checkpoint_blocks = 512;  // regular checkpoints
  // Where more is kept than the pools hold; null or outliving the cache. Host memory gets what the
  // pools give away, retrieval pages and the windows of checkpoints; files get what Checkpoint
  // names.
  HostPages* host = nullptr;
  PrefixStore* store = nullptr;
};

// Blocks that came back, in whole or in part.
struct PrefixRestored {
  int64_t host = 0, files = 0;
};

// What a sequence knows about its way through the tree; moves with it.
struct PrefixPath {
  BlockHash seed{};
  bool dense = false;  // streaming heads see everything: so seeds of dense sequences differ
  int32_t budget = 0;  // that its own answer is decoded under
  std::vector<BlockHash> blocks;  // names of the blocks that were found or inserted, from the first
  uint64_t owner = 0;             // whose path: told apart from other sequences' by Insert
};

struct PrefixHit {
  int blocks = 0;  // that need not be computed
  // By HeadClass: pages that Attach shares, and how many of them are idle until then.
  int64_t pages[2] = {0, 0}, idle[2] = {0, 0};
};

class PrefixCache {
 public:
  // `kv` outlives the cache, which gives all its pages back at the end.
  PrefixCache(const PrefixCacheConfig& config, KvCache* kv);
  ~PrefixCache();

  // The longest hit of at most `most` blocks. Remembers the way in the path.
  PrefixHit Find(PrefixPath* path, std::span<const int32_t> tokens, int most) const;
  // The first blocks of the path, at most `most`, that are still there, streaming pages or not.
  PrefixHit FindRetrieval(const PrefixPath& path, int most) const;
  // The name of the first block after the path, if it were computed as part of a prompt.
  BlockHash NextName(const PrefixPath& path, std::span<const int32_t> tokens) const;

  // Puts the pages of a hit that was just found under a slot that has none, and cuts the path
  // there. With `streaming` false only the retrieval pages.
  void Attach(PrefixPath* path, const PrefixHit& hit, int slot, bool streaming = true);

  // The next block of the path is stored, and full, in the slot. If the tree has it already, the
  // slot goes on with the tree's pages. False, and nothing done, when the tree's were decoded by
  // another sequence, whose keys need not be ours.
  bool Insert(PrefixPath* path, int slot, std::span<const int32_t> tokens, bool decoded);
  // The end of the path is where somebody may come back to; all of it counts as used now.
  void Checkpoint(const PrefixPath& path);

  // Brings in from the tiers what a deeper hit than Find's needs, until about `bytes` are read from
  // files or eight times as many from host memory. Nothing: there was nothing to bring. A `swapped`
  // sequence needs no windows if all its blocks are to be had. REQUIRES: the path is what Find made
  // of it.
  PrefixRestored Restore(PrefixPath* path, std::span<const int32_t> tokens, int most, int64_t bytes,
                         bool swapped = false);
  // Copies blocks that Checkpoint listed out to the store, until about `bytes` are copied. Whether
  // there are more.
  bool Save(int64_t bytes);

  // Gives back up to `pages` idle pages, the longest unused first. Returns how many.
  int64_t Evict(HeadClass cls, int64_t pages) { return Evict(cls, pages, UINT64_MAX); }

  const PrefixRestored& restored() const { return restored_; }  // so far
  int64_t blocks() const { return static_cast<int64_t>(nodes_.size()); }
  const HostPages* host() const { return config_.host; }

  // Nodes and held pages agree, and the invariant holds. The error names the block.
  Status CheckIntegrity() const;

 private:
  struct Node;
  struct Gaps {  // blocks without a streaming page
    int first = INT32_MAX, last = -1;
    void Add(int block) {
      first = std::min(first, block);
      last = block;
    }
  };
  using Order = std::set<std::pair<std::pair<uint64_t, uint64_t>, Node*>>;  // by use, then number

  Node* Get(const BlockHash& hash) const;
  Node* Add(Node* parent, const BlockHash& name, bool dense, uint64_t inserter,
            const int32_t (&pages)[2]);
  int FirstWindowBlock(int blocks) const;
  bool Sees(const PrefixPath& path, int blocks, int b) const;
  bool SeesAll(const PrefixPath& path, int blocks, const Gaps& gaps) const;
  PrefixTier* TierOf(const BlockHash& name, HeadClass cls) const;
  int Reach(const PrefixPath& path, std::span<const int32_t> tokens, int most, bool streaming,
            std::vector<BlockHash>* names) const;
  bool BringIn(const PrefixPath& path, const std::vector<BlockHash>& names, int b, bool streaming,
               uint64_t now, int64_t* bytes);
  void Spill(const Node& node, HeadClass cls);
  template <typename Visit>
  void ForNeeded(Node* end, Visit visit);
  void Mark(Node* node);
  void Unmark(Node* node);
  void Use(Node* node, uint64_t now);
  void Enter(Node* node);
  void Leave(Node* node);
  bool Loose(const Node& node) const;
  void RemoveLeaf(Node* node);
  void DropStreaming(Node* node);
  int64_t DropLoose(int64_t pages, uint64_t before);
  bool DropLeaf(uint64_t before);
  int64_t Evict(HeadClass cls, int64_t pages, uint64_t before);  // those last used before then

  const PrefixCacheConfig config_;
  KvCache* const kv_;
  std::unordered_map<BlockHash, std::unique_ptr<Node>, BlockHashBits> nodes_;
  Order leaves_;                   // nodes without children
  Order loose_;                    // nodes with a streaming page that no checkpoint needs
  std::deque<BlockHash> unsaved_;  // in the order of their paths; some may be gone by now
  PrefixRestored restored_;
  uint64_t clock_ = 0, created_ = 0;
};

}  // namespace lserve
