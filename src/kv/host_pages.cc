#include "kv/host_pages.h"

#include <algorithm>

namespace lserve {
namespace {

constexpr int64_t kSlabPages = 8;  // of the larger class

double Gib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

Result<std::unique_ptr<HostPages>> HostPages::Create(int64_t limit_bytes,
                                                     const int64_t (&page_bytes)[2],
                                                     Memory* memory) {
  const int64_t slab = kSlabPages * std::max(page_bytes[0], page_bytes[1]);
  const int64_t slabs = limit_bytes / slab;
  if (slabs < 2)  // each class has one
    return InvalidArgument("--prefix-cache-host-gb {:.3g}: it begins at {:.3g} with this model",
                           Gib(limit_bytes), std::max(0.001, Gib(2 * slab) * 1.01));
  const int64_t available = static_cast<int64_t>(std::min<size_t>(AvailableHostBytes(), INT64_MAX));
  if (slabs * slab > available)
    return ResourceExhausted(
        "--prefix-cache-host-gb {:.3g}: this machine has {:.1f} GiB of memory left",
        Gib(limit_bytes), Gib(available));
  std::byte* bytes = memory->AllocateHost(static_cast<size_t>(slabs * slab));
  if (bytes == nullptr)
    return ResourceExhausted(
        "--prefix-cache-host-gb {:.3g}: the system does not give so much{}; it has {:.1f} GiB left",
        Gib(limit_bytes), memory->host() ? "" : " page-locked memory", Gib(available));
  return std::unique_ptr<HostPages>(new HostPages(page_bytes, slab, slabs, memory, bytes));
}

HostPages::HostPages(const int64_t (&page_bytes)[2], int64_t slab_bytes, int64_t slabs,
                     Memory* memory, std::byte* bytes)
    : page_bytes_{page_bytes[0], page_bytes[1]},
      slab_bytes_(slab_bytes),
      memory_(memory),
      base_(bytes),
      slabs_(static_cast<size_t>(slabs)) {
  for (size_t i = slabs_.size(); i > 0; --i) empty_.push_back(i - 1);
}

HostPages::~HostPages() {
  memory_->FreeHost(base_, slabs_.size() * static_cast<size_t>(slab_bytes_));
}

std::byte* HostPages::Take(int cls) {
  if (open_[cls].empty()) {
    if (empty_.empty()) return nullptr;
    const size_t i = empty_.back();
    empty_.pop_back();
    slabs_[i].cls = cls;
    std::byte* const begin = base_ + static_cast<int64_t>(i) * slab_bytes_;
    for (int64_t slot = Slots(cls) - 1; slot >= 0; --slot)
      slabs_[i].free.push_back(begin + slot * page_bytes_[static_cast<size_t>(cls)]);
    open_[cls].insert(i);
  }
  const size_t i = *open_[cls].begin();
  std::byte* const slot = slabs_[i].free.back();
  slabs_[i].free.pop_back();
  if (slabs_[i].free.empty()) open_[cls].erase(i);
  bytes_ += page_bytes_[static_cast<size_t>(cls)];
  return slot;
}

void HostPages::Give(int cls, std::byte* slot) {
  const size_t i = static_cast<size_t>((slot - base_) / slab_bytes_);
  Slab& slab = slabs_[i];
  slab.free.push_back(slot);
  open_[cls].insert(i);
  bytes_ -= page_bytes_[static_cast<size_t>(cls)];
  if (static_cast<int64_t>(slab.free.size()) < Slots(cls)) return;
  open_[cls].erase(i);
  slab = Slab();
  empty_.push_back(i);
}

void HostPages::Drop(const BlockHash& name) {
  const auto found = entries_.find(name);
  order_.erase(PlaceOf(name, found->second));
  for (int cls : {0, 1})
    if (std::byte* slot = found->second.pages[cls]) Give(cls, slot);
  entries_.erase(found);
}

std::byte* HostPages::Add(const BlockHash& name, int32_t block, HeadClass cls, uint64_t used) {
  const int k = static_cast<int>(cls);
  if (page_bytes_[static_cast<size_t>(k)] == 0) return nullptr;
  const auto [found, added] = entries_.try_emplace(name);
  Entry& entry = found->second;
  if (added) {
    entry.block = block;
    order_.insert(PlaceOf(name, entry));
  }
  Use(name, used);
  if (entry.pages[k] != nullptr) return nullptr;
  while (true) {
    if (std::byte* slot = Take(k)) return entry.pages[k] = slot;
    const BlockHash oldest = std::get<BlockHash>(*order_.begin());
    Drop(oldest);
    if (oldest == name) return nullptr;
  }
}

bool HostPages::Has(const BlockHash& name, HeadClass cls) const {
  const size_t k = static_cast<size_t>(cls);
  const auto found = entries_.find(name);
  return found != entries_.end() && (found->second.pages[k] != nullptr || page_bytes_[k] == 0);
}

const std::byte* HostPages::Load(const BlockHash& name, HeadClass cls, uint64_t used) {
  const size_t k = static_cast<size_t>(cls);
  Use(name, used);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return nullptr;
  return page_bytes_[k] == 0 ? base_ : found->second.pages[k];
}

void HostPages::Use(const BlockHash& name, uint64_t used) {
  const auto found = entries_.find(name);
  if (found == entries_.end() || found->second.used >= used) return;
  order_.erase(PlaceOf(name, found->second));
  found->second.used = used;
  order_.insert(PlaceOf(name, found->second));
}

Status HostPages::CheckIntegrity() const {
  if (order_.size() != entries_.size())
    return Internal("host pages: {} blocks, {} in order", entries_.size(), order_.size());
  int64_t slots = 0, bytes = 0, expected = 0;
  std::set<const std::byte*> taken;
  for (const auto& [name, entry] : entries_) {
    if (!order_.contains(PlaceOf(name, entry)))
      return Internal("host pages: block {} has no place in the order", entry.block);
    for (const size_t k : {0, 1}) {
      if (entry.pages[k] == nullptr) continue;
      const size_t i = static_cast<size_t>((entry.pages[k] - base_) / slab_bytes_);
      if (!taken.insert(entry.pages[k]).second || i >= slabs_.size() ||
          slabs_[i].cls != static_cast<int>(k))
        return Internal("host pages: block {} has a slot that is not its own", entry.block);
      ++slots;
      bytes += page_bytes_[k];
    }
  }
  for (const Slab& slab : slabs_) {
    if (slab.cls < 0) continue;
    expected += Slots(slab.cls) - static_cast<int64_t>(slab.free.size());
    for (const std::byte* slot : slab.free)
      if (!taken.insert(slot).second) return Internal("host pages: a free slot is in use");
  }
  if (slots != expected || bytes != bytes_)
    return Internal("host pages: {} slots of {} bytes are used, {} of {} counted", slots, bytes,
                    expected, bytes_);
  return Ok();
}

}  // namespace lserve
