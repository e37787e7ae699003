#include "engine/stop.h"

#include <algorithm>

namespace lserve {

std::string StopMatcher::Push(const std::string& text) {
  if (stopped_) return {};
  held_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t pos = held_.find(stop);
    // The earliest wins; of two that begin together, the longer.
    if (pos < first || (pos == first && pos != std::string::npos && stop.size() > stopped_->size())) {
      first = pos;
      stopped_ = stop;
    }
  }
  if (stopped_) {
    std::string out = held_.substr(0, first);
    held_.clear();
    return out;
  }
  // The longest end of the text that begins a stop string stays.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) {
        keep = n;
        break;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopMatcher::Finish() {
  std::string out;
  out.swap(held_);
  return stopped_ ? std::string() : out;
}

}  // namespace lserve
