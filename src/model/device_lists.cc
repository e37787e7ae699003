// A sequence's selection lists, from the device to the host and back: for preemption.
#include <algorithm>

#include "model/device_step.h"

namespace lserve {

// The device's lists have the runner's capacity, a sequence's its own.
void DeviceModel::SaveSelection(int slot, SelectionState* state) {
  if (state->local_begin < 0) return;
  const size_t lists = Size(int64_t{config_.layers} * this->lists());
  std::vector<int32_t> all(lists * Size(list_capacity_));
  device_->CopyOut(state->counts.data(), counts_.data() + Size(slot) * lists * 4, lists * 4);
  device_->CopyOut(all.data(), lists_.data() + Size(slot) * all.size() * 4, all.size() * 4);
  for (size_t l = 0; l < lists; ++l)
    std::copy_n(all.data() + l * Size(list_capacity_), std::min(state->capacity, list_capacity_),
                state->lists.data() + l * Size(state->capacity));
}

void DeviceModel::LoadSelection(int slot, const SelectionState& state) {
  if (state.local_begin < 0) return;
  const size_t lists = Size(int64_t{config_.layers} * this->lists());
  std::vector<int32_t> all(lists * Size(list_capacity_));
  for (size_t l = 0; l < lists; ++l)
    std::copy_n(state.lists.data() + l * Size(state.capacity),
                std::min(state.capacity, list_capacity_), all.data() + l * Size(list_capacity_));
  device_->CopyIn(counts_.data() + Size(slot) * lists * 4, state.counts.data(), lists * 4);
  device_->CopyIn(lists_.data() + Size(slot) * all.size() * 4, all.data(), all.size() * 4);
}

}  // namespace lserve
