#include "engine/stop.h"

#include <algorithm>

namespace lserve {

std::string StopMatcher::Push(const std::string& text) {
  if (stopped_) return {};
  const size_t before = held_.size();
  held_ += text;
  // The stop string that is complete first wins, of those that end together the longest: so the
  // answer does not depend on how the text was cut into tokens.
  size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t from =
        before + 1 > stop.size() ? before + 1 - stop.size() : 0;  // ends in the new text
    const size_t pos = held_.find(stop, from);
    if (pos == std::string::npos) continue;
    const size_t stop_end = pos + stop.size();
    if (stop_end < end || (stop_end == end && stop.size() > stopped_->size())) {
      end = stop_end;
      stopped_ = stop;
    }
  }
  if (stopped_) {
    std::string out = held_.substr(0, end - stopped_->size());
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
