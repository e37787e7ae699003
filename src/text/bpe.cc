#include "text/bpe.h"

#include <algorithm>
#include <bit>

namespace lserve::text {

MergeTable::MergeTable(size_t count) {
  const size_t size = std::bit_ceil(std::max<size_t>(16, 2 * count));
  slots_.resize(size);
  mask_ = size - 1;
  shift_ = 64 - std::countr_zero(size);
}

void MergeTable::Set(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = Key(left, right);
  size_t i = Slot(key);
  while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & mask_;
  slots_[i] = {key, merge};
}

void BpeScratch::Merge(const MergeTable& table, std::vector<int32_t>* ids) {
  constexpr size_t kShort = 64, kKeep = 1 << 16;
  const size_t size = ids->size();
  if (size < 2) return;
  if (size <= kShort) return MergeShort(table, ids);
  MergeLong(table, ids);
  if (size > kKeep) *this = BpeScratch();  // one long word must not hold memory for ever
}

void BpeScratch::MergeShort(const MergeTable& table, std::vector<int32_t>* ids) {
  size_t size = ids->size();
  int32_t* id = ids->data();
  pairs_.resize(size);  // pairs_[i]: what id[i] and id[i + 1] merge to
  for (size_t i = 0; i + 1 < size; ++i) pairs_[i] = table.Find(id[i], id[i + 1]);
  while (size > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < size; ++i) {
      if (pairs_[i].rank < pairs_[best].rank) best = i;
    }
    if (pairs_[best].rank == MergeTable::kNone) break;
    id[best] = pairs_[best].id;
    std::copy(id + best + 2, id + size, id + best + 1);
    if (best + 2 < size) {
      std::copy(pairs_.begin() + best + 2, pairs_.begin() + size - 1, pairs_.begin() + best + 1);
    }
    --size;
    if (best + 1 < size) pairs_[best] = table.Find(id[best], id[best + 1]);
    if (best > 0) pairs_[best - 1] = table.Find(id[best - 1], id[best]);
  }
  ids->resize(size);
}

void BpeScratch::MergeLong(const MergeTable& table, std::vector<int32_t>* ids) {
  constexpr uint32_t kEnd = UINT32_MAX;
  constexpr int32_t kGone = -1;
  const auto size = static_cast<uint32_t>(ids->size());
  int32_t* id = ids->data();
  next_.resize(size);
  previous_.resize(size);
  heap_.clear();
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  for (uint32_t i = 0; i < size; ++i) {
    previous_[i] = i == 0 ? kEnd : i - 1;
    next_[i] = i + 1 == size ? kEnd : i + 1;
    if (i + 1 == size) break;
    const MergeTable::Merge merge = table.Find(id[i], id[i + 1]);
    if (merge.rank != MergeTable::kNone) heap_.push_back({merge.rank, i, merge.id});
  }
  std::make_heap(heap_.begin(), heap_.end(), later);
  const auto offer = [&](uint32_t left) {
    const MergeTable::Merge merge = table.Find(id[left], id[next_[left]]);
    if (merge.rank == MergeTable::kNone) return;
    heap_.push_back({merge.rank, left, merge.id});
    std::push_heap(heap_.begin(), heap_.end(), later);
  };
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Candidate best = heap_.back();
    heap_.pop_back();
    const uint32_t left = best.position, right = id[left] == kGone ? kEnd : next_[left];
    if (right == kEnd) continue;
    const MergeTable::Merge now = table.Find(id[left], id[right]);
    if (now.rank != best.rank || now.id != best.id) continue;  // a neighbour has changed since
    id[left] = best.id;
    id[right] = kGone;
    next_[left] = next_[right];
    if (next_[left] != kEnd) {
      previous_[next_[left]] = left;
      offer(left);
    }
    if (previous_[left] != kEnd) offer(previous_[left]);
  }
  ids->erase(std::remove(ids->begin(), ids->end(), kGone), ids->end());
}

}  // namespace lserve::text
