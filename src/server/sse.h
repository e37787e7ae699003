// Server-sent events: the frames that a streamed answer is made of.
#pragma once

#include <string>
#include <string_view>

namespace lserve::sse {

// One event. REQUIRES: no line break in `data` (JSON on one line).
inline std::string Data(std::string_view data) {
  std::string frame = "data: ";
  frame += data;
  frame += "\n\n";
  return frame;
}

// What ends a stream of OpenAI's.
inline constexpr std::string_view kDone = "data: [DONE]\n\n";

// A comment: clients skip it, proxies see that the connection lives.
inline constexpr std::string_view kKeepAlive = ": keep-alive\n\n";

}  // namespace lserve::sse
