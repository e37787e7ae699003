#include "cli/blocking.h"

#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <mutex>

namespace lserve {

Result<Answer> Ask(Engine* engine, Request request,
                   const std::function<void(const Event&)>& on_event,
                   const std::function<bool()>& interrupt) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  Answer answer;
  Status error;
  const std::string id = request.id;
  const Status submitted = engine->Submit(std::move(request), [&](Event event) {
    if (on_event) on_event(event);
    std::lock_guard lock(mutex);
    for (const TokenOutput& token : event.tokens)
      if (event.kind == Event::Kind::kTokens) answer.text += token.text;
    if (event.kind != Event::Kind::kFinish) return;
    answer.text += event.trailing_text;
    answer.reason = event.reason;
    answer.usage = event.usage;
    if (event.reason == FinishReason::kError) error = event.error;
    done = true;
    changed.notify_all();  // under the lock: the waiter may destroy both as soon as it is let go
  });
  if (!submitted.ok()) return submitted;
  std::unique_lock lock(mutex);
  while (!done) {
    changed.wait_for(lock, std::chrono::milliseconds(100));
    if (!done && interrupt && interrupt()) engine->Cancel(id);
  }
  if (!error.ok()) return error;
  return answer;
}

void PrintEvent(const Event& event) {
  static const bool terminal = isatty(STDERR_FILENO);
  if (event.kind == Event::Kind::kProgress && terminal) {
    if (event.prompt_done < event.prompt_total)
      fmt::print(stderr, "\rprompt {} / {} tokens", event.prompt_done, event.prompt_total);
    else
      fmt::print(stderr, "\r{:40}\r", "");
    std::fflush(stderr);
  }
  if (event.kind == Event::Kind::kTokens)
    for (const TokenOutput& token : event.tokens) fmt::print("{}", token.text);
  if (event.kind == Event::Kind::kFinish) fmt::print("{}", event.trailing_text);
  std::fflush(stdout);
}

}  // namespace lserve
