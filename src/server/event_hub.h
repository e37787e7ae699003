// Carries events from the engine's thread to the strand of the connection they are for. The engine
// may hold its sinks longer than connections and even the server live: a sink holds the hub and a
// number, nothing else. All functions may be called from any thread.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "engine/request.h"

namespace lserve {

class EventHub : public std::enable_shared_from_this<EventHub> {
 public:
  using Receiver = std::function<void(int choice, Event event)>;

  // `receiver` is called on `executor` until Remove. It should hold its owner weakly.
  uint64_t Add(boost::asio::any_io_executor executor, Receiver receiver);
  void Remove(uint64_t key);
  // A sink that delivers to `key`, marked with `choice`.
  EventSink SinkFor(uint64_t key, int choice);
  // Nothing is delivered any more. REQUIRED before the executors die.
  void Close();

 private:
  struct Entry {
    boost::asio::any_io_executor executor;
    std::shared_ptr<Receiver> receiver;
  };
  void Deliver(uint64_t key, int choice, Event event);

  std::mutex mutex_;
  std::unordered_map<uint64_t, Entry> entries_;
  uint64_t next_ = 1;
};

}  // namespace lserve
