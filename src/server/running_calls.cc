#include "server/running_calls.h"

#include <boost/asio/post.hpp>

namespace lserve {

void RunningCalls::Add(const std::string& id, boost::asio::any_io_executor executor,
                       std::weak_ptr<Exchange> call) {
  const Exchange* key = call.lock().get();
  std::lock_guard lock(mutex_);
  entries_.insert({id, {std::move(executor), key, std::move(call)}});
}

void RunningCalls::Remove(const std::string& id, const Exchange* call) {
  std::lock_guard lock(mutex_);
  auto [it, end] = entries_.equal_range(id);
  while (it != end) it = it->second.call == call ? entries_.erase(it) : std::next(it);
}

bool RunningCalls::Abort(const std::string& id) {
  std::lock_guard lock(mutex_);
  const auto [begin, end] = entries_.equal_range(id);
  for (auto it = begin; it != end; ++it)
    boost::asio::post(it->second.executor, [weak = it->second.weak] {
      if (const auto call = weak.lock()) call->Abort(AbortReason::kRequested);
    });
  return begin != end;
}

void RunningCalls::Close() {
  std::lock_guard lock(mutex_);
  entries_.clear();
}

}  // namespace lserve
