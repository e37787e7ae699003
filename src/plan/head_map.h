// Which class each KV head of a layer belongs to, and its place among the heads of that class. The
// only place that knows head order.
#pragma once

#include <cstdint>
#include <vector>

namespace lserve {

// The class of a head's STORAGE. A streaming plan may run over retrieval storage (comparisons,
// calibration), never the reverse.
enum class HeadClass : uint8_t { kRetrieval = 0, kStreaming = 1 };

struct HeadSlot {
  HeadClass cls;
  int16_t rank;  // index among the layer's heads of this class
};

class HeadMap {
 public:
  HeadMap() = default;
  // One entry a KV head.
  explicit HeadMap(const std::vector<HeadClass>& classes) {
    for (HeadClass cls : classes) slots_.push_back({cls, counts_[static_cast<int>(cls)]++});
  }
  int num_heads() const { return static_cast<int>(slots_.size()); }
  int count(HeadClass cls) const { return counts_[static_cast<int>(cls)]; }
  const HeadSlot& operator[](int kv_head) const { return slots_[static_cast<size_t>(kv_head)]; }
  bool streaming(int kv_head) const { return (*this)[kv_head].cls == HeadClass::kStreaming; }

 private:
  std::vector<HeadSlot> slots_;
  int16_t counts_[2] = {0, 0};
};

}  // namespace lserve
