// Waiting for one request in the foreground, for the commands that have no server.
#pragma once

#include <functional>
#include <string>

#include "engine/engine.h"

namespace lserve {

struct Answer {
  std::string text;
  FinishReason reason = FinishReason::kNone;
  Usage usage;
};

// Submits and waits. `on_event` (optional) sees every event, on the engine's thread. With
// `interrupt` (optional) turning true the request is cancelled.
Result<Answer> Ask(Engine* engine, Request request,
                   const std::function<void(const Event&)>& on_event = {},
                   const std::function<bool()>& interrupt = {});

// Prints streamed text, and progress through a long prompt on standard error when that is a
// terminal.
void PrintEvent(const Event& event);

}  // namespace lserve
