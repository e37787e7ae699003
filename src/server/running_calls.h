// The completions that are being worked on, by the ids a client knows: to end one from outside its
// own connection. Any thread.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "server/http_types.h"

namespace lserve {

class RunningCalls {
 public:
  void Add(const std::string& id, boost::asio::any_io_executor executor,
           std::weak_ptr<Exchange> call);
  // `call` as it was added; ids need not be unique.
  void Remove(const std::string& id, const Exchange* call);
  // Asks all calls of this id to end; false when there is none.
  bool Abort(const std::string& id);
  // Forgets everything. REQUIRED before the executors die.
  void Close();

 private:
  struct Entry {
    boost::asio::any_io_executor executor;
    const Exchange* call;
    std::weak_ptr<Exchange> weak;
  };
  std::mutex mutex_;
  std::multimap<std::string, Entry> entries_;
};

}  // namespace lserve
