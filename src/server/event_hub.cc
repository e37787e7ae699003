#include "server/event_hub.h"

#include <boost/asio/post.hpp>

namespace lserve {

uint64_t EventHub::Add(boost::asio::any_io_executor executor, Receiver receiver) {
  std::lock_guard lock(mutex_);
  const uint64_t key = next_++;
  entries_[key] = {std::move(executor), std::make_shared<Receiver>(std::move(receiver))};
  return key;
}

void EventHub::Remove(uint64_t key) {
  std::lock_guard lock(mutex_);
  entries_.erase(key);
}

void EventHub::Close() {
  std::lock_guard lock(mutex_);
  entries_.clear();
}

EventSink EventHub::SinkFor(uint64_t key, int choice) {
  return [hub = shared_from_this(), key, choice](Event event) {
    hub->Deliver(key, choice, std::move(event));
  };
}

void EventHub::Deliver(uint64_t key, int choice, Event event) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(key);
  if (found == entries_.end()) return;
  boost::asio::post(found->second.executor, [receiver = found->second.receiver, choice,
                                             event = std::move(event)]() mutable {
    (*receiver)(choice, std::move(event));
  });
}

}  // namespace lserve
