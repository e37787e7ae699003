// Byte-pair encoding of one piece of text: the table of merges, and the loop that merges the best
// pair, leftmost first among equals, until none is left. Immutable, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lserve::text {

// (left id, right id) -> rank (lower merges first) and the merged id. Open addressing, sized once.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank = kNone;
    int32_t id = -1;
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  // Room for `count` pairs.
  explicit MergeTable(size_t count);
  // A pair that is there already gets the new rank.
  void Set(int32_t left, int32_t right, Merge merge);
  // rank == kNone: the pair does not merge.
  Merge Find(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (size_t i = Slot(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].merge;
      if (slots_[i].key == kEmpty) return {};
    }
  }

  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (const Entry& e : slots_) {
      if (e.key != kEmpty) {
        visit(static_cast<int32_t>(e.key >> 32), static_cast<int32_t>(e.key), e.merge);
      }
    }
  }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;
  struct Entry {
    uint64_t key = kEmpty;
    Merge merge;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t Slot(uint64_t key) const { return (key * 0x9e3779b97f4a7c15u) >> shift_; }

  std::vector<Entry> slots_;
  size_t mask_;
  int shift_;
};

// What BpeMerge needs besides its input; kept between calls for its memory.
class BpeScratch {
 public:
  // Merges in place. O(n^2) for short pieces, O(n log n) for long ones.
  void Merge(const MergeTable& table, std::vector<int32_t>* ids);

 private:
  struct Candidate {
    uint32_t rank;
    uint32_t position;
    int32_t id;
  };
  void MergeShort(const MergeTable& table, std::vector<int32_t>* ids);
  void MergeLong(const MergeTable& table, std::vector<int32_t>* ids);

  std::vector<MergeTable::Merge> pairs_;
  std::vector<Candidate> heap_;
  std::vector<uint32_t> next_, previous_;
};

}  // namespace lserve::text
