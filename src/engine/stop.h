// Stop strings in a stream of text: finds the first one across token borders, and holds back only
// text that may still become one. One thread a matcher.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace lserve {

class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Text that may be shown after `text` came. Once stopped() there is no more.
  std::string Push(const std::string& text);
  // What was held back, when generation ended for another reason.
  std::string Finish();

  // The stop string that was found; it and what follows are not part of the answer.
  const std::optional<std::string>& stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::optional<std::string> stopped_;
};

}  // namespace lserve
