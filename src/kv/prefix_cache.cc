#include "kv/prefix_cache.h"

#include <algorithm>

#include "kv/prefix_node.h"

namespace lserve {

namespace {
constexpr HeadClass kRetrieval = HeadClass::kRetrieval, kStreaming = HeadClass::kStreaming;
}

PrefixCache::PrefixCache(const PrefixCacheConfig& config, KvCache* kv) : config_(config), kv_(kv) {}

PrefixCache::~PrefixCache() {
  for (auto& [name, node] : nodes_) {
    kv_->Unhold(kRetrieval, node->retrieval());
    if (node->streaming() != kNoPage) kv_->Unhold(kStreaming, node->streaming());
  }
}

PrefixCache::Node* PrefixCache::Get(const BlockHash& name) const {
  const auto found = nodes_.find(name);
  return found == nodes_.end() ? nullptr : found->second.get();
}

// The first block that the token after `blocks` blocks sees in its window.
int PrefixCache::FirstWindowBlock(int blocks) const {
  return std::max(0, blocks * kBlockTokens - config_.window_tokens + 1) / kBlockTokens;
}

// Whether the streaming heads of the token after `blocks` blocks see block b.
bool PrefixCache::Sees(const PrefixPath& path, int blocks, int b) const {
  return path.dense || b < config_.sink_blocks || b >= FirstWindowBlock(blocks);
}

bool PrefixCache::SeesAll(const PrefixPath& path, int blocks, const Gaps& gaps) const {
  const bool sinks = gaps.first >= config_.sink_blocks,
             window = gaps.last < FirstWindowBlock(blocks);
  return gaps.last < 0 || (sinks && window && !path.dense);
}

// ---- finding

PrefixHit PrefixCache::Find(PrefixPath* path, std::span<const int32_t> tokens, int most) const {
  PrefixHit hit;
  int64_t idle = 0;
  Gaps gaps;
  std::vector<const Node*> way;
  for (int b = 0; b < most; ++b) {
    const size_t at = static_cast<size_t>(b);
    const Node* node = at < path->blocks.size() ? Get(path->blocks[at]) : nullptr;
    if (node == nullptr) {
      path->blocks.resize(std::min(path->blocks.size(), at));
      const BlockHash& before = b == 0 ? path->seed : path->blocks.back();
      const auto block = tokens.subspan(at * kBlockTokens, kBlockTokens);
      node = Get(NextBlock(before, block, kPrefilled));
      if (node == nullptr && config_.share_decoded)
        node = Get(NextBlock(before, block, path->budget));
      if (node == nullptr) break;
      path->blocks.push_back(node->name);
    }
    way.push_back(node);
    idle += kv_->idle(kRetrieval, node->retrieval());
    if (node->streaming() == kNoPage) gaps.Add(b);
    if (SeesAll(*path, b + 1, gaps)) {
      hit.blocks = b + 1;
      hit.idle[static_cast<int>(kRetrieval)] = idle;
    }
  }
  hit.pages[static_cast<int>(kRetrieval)] = hit.blocks;
  for (int b = 0; b < hit.blocks; ++b) {
    if (!Sees(*path, hit.blocks, b)) continue;
    ++hit.pages[static_cast<int>(kStreaming)];
    hit.idle[static_cast<int>(kStreaming)] +=
        kv_->idle(kStreaming, way[static_cast<size_t>(b)]->streaming());
  }
  return hit;
}

PrefixHit PrefixCache::FindRetrieval(const PrefixPath& path, int most) const {
  PrefixHit hit;
  for (; hit.blocks < most && static_cast<size_t>(hit.blocks) < path.blocks.size(); ++hit.blocks) {
    const Node* node = Get(path.blocks[static_cast<size_t>(hit.blocks)]);
    if (node == nullptr) break;
    hit.idle[static_cast<int>(kRetrieval)] += kv_->idle(kRetrieval, node->retrieval());
  }
  hit.pages[static_cast<int>(kRetrieval)] = hit.blocks;
  return hit;
}

BlockHash PrefixCache::NextName(const PrefixPath& path, std::span<const int32_t> tokens) const {
  return NextBlock(path.blocks.empty() ? path.seed : path.blocks.back(),
                   tokens.subspan(path.blocks.size() * kBlockTokens, kBlockTokens), kPrefilled);
}

void PrefixCache::Attach(PrefixPath* path, const PrefixHit& hit, int slot, bool streaming) {
  const uint64_t now = ++clock_;
  path->blocks.resize(static_cast<size_t>(hit.blocks));
  for (int b = 0; b < hit.blocks; ++b) {
    Node* node = Get(path->blocks[static_cast<size_t>(b)]);
    Use(node, now);
    kv_->Share(kRetrieval, slot, b, node->retrieval());
    if (streaming && Sees(*path, hit.blocks, b)) kv_->Share(kStreaming, slot, b, node->streaming());
  }
  if (streaming && !path->dense)
    kv_->ReleaseStreaming(slot, config_.sink_blocks, FirstWindowBlock(hit.blocks));
}

// ---- growing

// A new leaf over pages that are held.
PrefixCache::Node* PrefixCache::Add(Node* parent, const BlockHash& name, bool dense,
                                    uint64_t inserter, const int32_t (&pages)[2]) {
  auto made = std::make_unique<Node>();
  Node* node = made.get();
  node->name = name;
  node->parent = parent;
  node->block = parent == nullptr ? 0 : parent->block + 1;
  node->dense = dense;
  node->number = ++created_;
  node->inserter = inserter;
  node->used = ++clock_;
  node->pages[0] = pages[0];
  node->pages[1] = pages[1];
  nodes_[name] = std::move(made);
  if (parent != nullptr) {
    Leave(parent);
    ++parent->children;
    Enter(parent);
    if (parent->children > 1) Mark(parent);  // two prompts part here, a third may
  }
  Enter(node);
  if ((node->block + 1) % config_.checkpoint_blocks == 0) Mark(node);
  return node;
}

bool PrefixCache::Insert(PrefixPath* path, int slot, std::span<const int32_t> tokens,
                         bool decoded) {
  const int block = static_cast<int>(path->blocks.size());
  Node* parent = block == 0 ? nullptr : Get(path->blocks.back());
  CHECK(block == 0 || parent != nullptr);  // its page is in use
  const int32_t origin = decoded ? path->budget : kPrefilled;
  const BlockHash name = NextBlock(block == 0 ? path->seed : path->blocks.back(), tokens, origin);
  const int32_t own[2] = {kv_->Page(kRetrieval, slot, block), kv_->Page(kStreaming, slot, block)};
  Node* node = Get(name);
  if (node == nullptr) {
    kv_->Hold(kRetrieval, own[0]);
    if (own[1] != kNoPage) kv_->Hold(kStreaming, own[1]);
    node = Add(parent, name, path->dense, path->owner, own);
  } else if (node->retrieval() != own[0]) {
    if (decoded && node->inserter != path->owner) return false;
    Use(node, ++clock_);
    kv_->Share(kRetrieval, slot, block, node->retrieval());
    if (own[1] != kNoPage && node->streaming() != kNoPage)
      kv_->Share(kStreaming, slot, block, node->streaming());
  }
  if (node->streaming() == kNoPage && own[1] != kNoPage) {  // it was dropped, and is there again
    Leave(node);
    node->pages[1] = own[1];
    kv_->Hold(kStreaming, own[1]);
    Enter(node);
  }
  path->blocks.push_back(name);
  return true;
}

// Calls visit(node) for every node whose streaming page the checkpoint at `end` needs.
template <typename Visit>
void PrefixCache::ForNeeded(Node* end, Visit visit) {
  const int boundary = end->block + 1;
  const int first = end->dense ? 0 : FirstWindowBlock(std::max(0, boundary - config_.slack_blocks));
  for (Node* node = end; node != nullptr; node = node->parent) {
    if (node->block < first && node->block >= config_.sink_blocks) break;
    visit(node);
  }
}

void PrefixCache::Mark(Node* end) {
  if (end->marked) return;
  end->marked = true;
  ForNeeded(end, [&](Node* node) {
    Leave(node);
    ++node->needed;
    node->wanted = true;
    Enter(node);
  });
}

void PrefixCache::Unmark(Node* end) {
  if (!end->marked) return;
  end->marked = false;
  ForNeeded(end, [&](Node* node) {
    Leave(node);
    --node->needed;
    Enter(node);
  });
}

void PrefixCache::Checkpoint(const PrefixPath& path) {
  Node* end = path.blocks.empty() ? nullptr : Get(path.blocks.back());
  if (end == nullptr) return;
  Mark(end);
  const uint64_t now = ++clock_;
  std::vector<BlockHash> unsaved;
  for (Node* node = end; node != nullptr; node = node->parent) {
    Use(node, now);
    if (config_.host != nullptr) config_.host->Use(node->name, now);
    if (config_.store == nullptr) continue;
    config_.store->Use(node->name, now);
    if (!std::exchange(node->listed, true)) unsaved.push_back(node->name);
  }
  unsaved_.insert(unsaved_.end(), unsaved.rbegin(), unsaved.rend());
}

// ---- order of eviction

void PrefixCache::Use(Node* node, uint64_t now) {
  Leave(node);
  node->used = now;
  Enter(node);
}

bool PrefixCache::Loose(const Node& node) const {
  return node.needed == 0 && node.streaming() != kNoPage && node.block >= config_.sink_blocks;
}

// Leave before what decides the place of a node changes, Enter after.
void PrefixCache::Enter(Node* node) {
  const std::pair<uint64_t, uint64_t> place(node->used, node->number);
  node->in_leaves = node->children == 0;
  node->in_loose = Loose(*node);
  if (node->in_leaves) leaves_.insert({place, node});
  if (node->in_loose) loose_.insert({place, node});
}

void PrefixCache::Leave(Node* node) {
  const std::pair<uint64_t, uint64_t> place(node->used, node->number);
  if (node->in_leaves) leaves_.erase({place, node});
  if (node->in_loose) loose_.erase({place, node});
  node->in_leaves = node->in_loose = false;
}

void PrefixCache::DropStreaming(Node* node) {
  Leave(node);
  Spill(*node, kStreaming);
  kv_->Unhold(kStreaming, node->streaming());
  node->pages[1] = kNoPage;
  Enter(node);
}

void PrefixCache::RemoveLeaf(Node* node) {
  Unmark(node);
  Leave(node);
  for (const HeadClass cls : {kRetrieval, kStreaming}) Spill(*node, cls);
  kv_->Unhold(kRetrieval, node->retrieval());
  if (node->streaming() != kNoPage) kv_->Unhold(kStreaming, node->streaming());
  if (Node* parent = node->parent) {
    Leave(parent);
    --parent->children;
    parent->used = std::max(parent->used, node->used);  // it was on the way
    Enter(parent);
  }
  nodes_.erase(node->name);
}

// Drops up to `pages` idle streaming pages that no checkpoint needs.
int64_t PrefixCache::DropLoose(int64_t pages, uint64_t before) {
  int64_t dropped = 0;
  for (auto it = loose_.begin();
       it != loose_.end() && it->first.first < before && dropped < pages;) {
    Node* node = (it++)->second;
    if (!kv_->idle(kStreaming, node->streaming())) continue;
    DropStreaming(node);
    ++dropped;
  }
  return dropped;
}

// Drops the longest unused leaf that nobody uses; false when there is none.
bool PrefixCache::DropLeaf(uint64_t before) {
  for (const auto& [place, node] : leaves_) {
    if (place.first >= before) break;
    if (!kv_->idle(kRetrieval, node->retrieval())) continue;
    RemoveLeaf(node);
    return true;
  }
  return false;
}

int64_t PrefixCache::Evict(HeadClass cls, int64_t pages, uint64_t before) {
  const int64_t free = kv_->free_pages(cls);
  const auto missing = [&] { return pages - (kv_->free_pages(cls) - free); };
  if (cls == kStreaming) DropLoose(missing(), before);
  while (missing() > 0 && DropLeaf(before))
    if (cls == kStreaming) DropLoose(missing(), before);
  // What is left belongs to blocks in use, of whose owners the window has moved on.
  for (const bool sinks : {false, true}) {
    if (cls != kStreaming || missing() <= 0) break;
    std::vector<Node*> rest;
    for (auto& [name, node] : nodes_)
      if ((node->block < config_.sink_blocks) == sinks && node->streaming() != kNoPage &&
          node->used < before && kv_->idle(kStreaming, node->streaming()))
        rest.push_back(node.get());
    std::sort(rest.begin(), rest.end(), [](const Node* a, const Node* b) {
      return std::pair(a->used, a->number) < std::pair(b->used, b->number);
    });
    for (size_t i = 0; i < rest.size() && missing() > 0; ++i) DropStreaming(rest[i]);
  }
  return kv_->free_pages(cls) - free;
}

Status PrefixCache::CheckIntegrity() const {
  int64_t idle[2] = {0, 0}, leaves = 0, loose = 0;
  std::unordered_map<const Node*, int> children;
  for (const auto& [name, node] : nodes_) {
    const Node* parent = node->parent;
    if ((node->block == 0) != (parent == nullptr) ||
        (parent != nullptr && (Get(parent->name) != parent || parent->block + 1 != node->block)))
      return Internal("block {} of the prefix cache has no place in the tree", node->block);
    if (parent != nullptr) ++children[parent];
    for (const HeadClass cls : {kRetrieval, kStreaming}) {
      const int32_t page = node->pages[static_cast<int>(cls)];
      if (page != kNoPage) idle[static_cast<int>(cls)] += kv_->idle(cls, page);
    }
    if (parent != nullptr && kv_->idle(kRetrieval, parent->retrieval()) &&
        !kv_->idle(kRetrieval, node->retrieval()))
      return Internal("block {} is in use, the block before it is idle", node->block);
    leaves += node->children == 0;
    loose += Loose(*node);
  }
  for (const auto& [name, node] : nodes_)
    if (const auto found = children.find(node.get());
        node->children != (found == children.end() ? 0 : found->second))
      return Internal("block {} counts {} children", node->block, node->children);
  if (leaves != static_cast<int64_t>(leaves_.size()) ||
      loose != static_cast<int64_t>(loose_.size()))
    return Internal("{} leaves and {} loose pages, {} and {} in order", leaves, loose,
                    leaves_.size(), loose_.size());
  if (config_.host != nullptr)
    if (Status s = config_.host->CheckIntegrity(); !s.ok()) return s;
  for (const HeadClass cls : {kRetrieval, kStreaming})
    if (idle[static_cast<int>(cls)] != kv_->idle_pages(cls))
      return Internal("{} idle pages are cached, the pool counts {}", idle[static_cast<int>(cls)],
                      kv_->idle_pages(cls));
  return Ok();
}

}  // namespace lserve
