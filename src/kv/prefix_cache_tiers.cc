// The prefix cache beyond the page pools: what goes to host memory and files, and what comes back.
#include "kv/prefix_cache.h"
#include "kv/prefix_node.h"

namespace lserve {
namespace {

constexpr HeadClass kRetrieval = HeadClass::kRetrieval, kStreaming = HeadClass::kStreaming;
constexpr int64_t kHostFaster = 8;  // a copy from host memory than one from a file

}  // namespace

bool PrefixCache::Save(int64_t bytes) {
  while (!unsaved_.empty() && bytes > 0 && config_.store->ready()) {
    const Node* node = Get(unsaved_.front());
    unsaved_.pop_front();
    if (node == nullptr) continue;
    // A file that was cut off, or was written without the streaming page, is made anew.
    if (config_.store->Has(node->name, kRetrieval) &&
        (node->streaming() == kNoPage || config_.store->Has(node->name, kStreaming)))
      continue;
    StoredBlock block;
    block.name = node->name;
    if (node->parent != nullptr) block.before = node->parent->name;
    block.block = node->block;
    block.dense = node->dense;
    for (const HeadClass cls : {kRetrieval, kStreaming}) {
      const int k = static_cast<int>(cls);
      if (node->pages[k] == kNoPage) continue;
      block.pages[k].resize(static_cast<size_t>(PageBytes(kv_->config(), cls)));
      kv_->CopyOut(cls, node->pages[k], block.pages[k].data());
    }
    bytes -= static_cast<int64_t>(block.pages[0].size() + block.pages[1].size());
    config_.store->Write(std::move(block), node->used);
  }
  return !unsaved_.empty();
}

// Where a page lies that the pools have not: the fastest place.
PrefixTier* PrefixCache::TierOf(const BlockHash& name, HeadClass cls) const {
  if (config_.host != nullptr && config_.host->Has(name, cls)) return config_.host;
  if (config_.store != nullptr && config_.store->Has(name, cls)) return config_.store;
  return nullptr;
}

// How long a hit could be with all that the tiers have, and its blocks' names.
int PrefixCache::Reach(const PrefixPath& path, std::span<const int32_t> tokens, int most,
                       bool streaming, std::vector<BlockHash>* names) const {
  *names = path.blocks;
  int reach = 0;
  Gaps gaps;
  for (int b = 0; b < most; ++b) {
    const size_t at = static_cast<size_t>(b);
    for (const int32_t origin : {kPrefilled, path.budget}) {
      if (names->size() > at || (origin != kPrefilled && !config_.share_decoded)) continue;
      const BlockHash name = NextBlock(b == 0 ? path.seed : names->back(),
                                       tokens.subspan(at * kBlockTokens, kBlockTokens), origin);
      if (TierOf(name, kRetrieval) != nullptr) names->push_back(name);
    }
    if (names->size() <= at) break;
    const BlockHash& name = (*names)[at];
    const Node* node = Get(name);
    if (node == nullptr && TierOf(name, kRetrieval) == nullptr) break;
    if (node == nullptr || node->streaming() == kNoPage)
      if (TierOf(name, kStreaming) == nullptr) gaps.Add(b);
    if (!streaming || SeesAll(path, b + 1, gaps)) reach = b + 1;
  }
  names->resize(static_cast<size_t>(reach));
  return reach;
}

// Brings in what the hit over `names`, all used at `now`, lacks of block b. False when there is no
// room.
bool PrefixCache::BringIn(const PrefixPath& path, const std::vector<BlockHash>& names, int b,
                          bool streaming, uint64_t now, int64_t* bytes) {
  const BlockHash& name = names[static_cast<size_t>(b)];
  const int reach = static_cast<int>(names.size());
  int32_t pages[2] = {kNoPage, kNoPage};
  bool done = true, from_files = false;
  for (const HeadClass cls : {kStreaming, kRetrieval}) {
    const int k = static_cast<int>(cls);
    const Node* node = Get(name);
    if (node != nullptr && node->pages[k] != kNoPage) continue;
    if (cls == kStreaming && !(streaming && Sees(path, reach, b))) continue;
    // Never another of them, though no checkpoint needs its window yet.
    if (kv_->free_pages(cls) == 0) Evict(cls, 1, now);
    // Only now: what was evicted may have pushed something out of host memory.
    PrefixTier* tier = TierOf(name, cls);
    const std::byte* page = tier != nullptr ? tier->Load(name, cls, now) : nullptr;
    if (page != nullptr) pages[k] = kv_->HoldNew(cls, page);
    done = done && pages[k] != kNoPage;
    const bool file = tier != nullptr && tier == config_.store;
    from_files = from_files || file;
    const int64_t size = PageBytes(kv_->config(), cls);
    *bytes -= file ? size : size / kHostFaster;
  }
  Node* node = Get(name);
  Node* parent = b == 0 ? nullptr : Get(names[static_cast<size_t>(b) - 1]);
  CHECK(b == 0 || parent != nullptr);
  if (node == nullptr && pages[0] != kNoPage) {
    node = Add(parent, name, path.dense, 0, pages);
    node->listed = from_files;
  } else if (node != nullptr && pages[1] != kNoPage) {
    Leave(node);
    node->pages[1] = pages[1];
    Enter(node);
  } else {
    for (const HeadClass cls : {kStreaming, kRetrieval})
      if (pages[static_cast<int>(cls)] != kNoPage) kv_->Unhold(cls, pages[static_cast<int>(cls)]);
    return false;
  }
  (from_files ? restored_.files : restored_.host) += 1;
  return done;
}

PrefixRestored PrefixCache::Restore(PrefixPath* path, std::span<const int32_t> tokens, int most,
                                    int64_t bytes, bool swapped) {
  const PrefixRestored before = restored_;
  if (config_.host == nullptr && config_.store == nullptr) return {};
  std::vector<BlockHash> names;
  const bool streaming = !swapped || Reach(*path, tokens, most, false, &names) < most;
  if (streaming) Reach(*path, tokens, most, true, &names);
  const int reach = static_cast<int>(names.size());
  const auto lacks = [&](int b) {
    const Node* node = Get(names[static_cast<size_t>(b)]);
    return node == nullptr || (node->streaming() == kNoPage && streaming && Sees(*path, reach, b));
  };
  int b = 0;
  while (b < reach && !lacks(b)) ++b;
  if (b == reach) return {};
  const uint64_t now = ++clock_;  // all of it is used now
  for (const BlockHash& name : names) {
    if (Node* node = Get(name)) Use(node, now);
    if (config_.host != nullptr) config_.host->Use(name, now);
    if (config_.store != nullptr) config_.store->Use(name, now);
  }
  for (; b < reach && bytes > 0; ++b)
    if (lacks(b) && !BringIn(*path, names, b, streaming, now, &bytes)) break;
  for (size_t i = path->blocks.size(); i < names.size() && Get(names[i]) != nullptr; ++i)
    path->blocks.push_back(names[i]);
  return {restored_.host - before.host, restored_.files - before.files};
}

// A page that is about to be given away. Of streaming pages those that a checkpoint needed.
void PrefixCache::Spill(const Node& node, HeadClass cls) {
  const int32_t page = node.pages[static_cast<int>(cls)];
  if (config_.host == nullptr || page == kNoPage) return;
  if (cls == kStreaming && !node.wanted && !node.dense && node.block >= config_.sink_blocks) return;
  if (std::byte* to = config_.host->Add(node.name, node.block, cls, node.used))
    kv_->CopyOut(cls, page, to);
}

}  // namespace lserve
