// What the endpoints share: options, the model once it is there, metrics, the event hub and the
// worker threads. Any thread; outlives every request.
#pragma once

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <ctime>
#include <functional>
#include <memory>
#include <mutex>

#include "server/event_hub.h"
#include "server/http_types.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/running_calls.h"
#include "server/served_model.h"

namespace lserve {

struct App {
  App(ServerOptions o, boost::asio::thread_pool* w) : options(std::move(o)), workers(w) {}

  const ServerOptions options;
  boost::asio::thread_pool* const workers;
  const std::shared_ptr<EventHub> hub = std::make_shared<EventHub>();
  RunningCalls calls;
  Metrics metrics;
  const int64_t started = std::time(nullptr);  // seconds since 1970
  std::atomic<int64_t> waiting_tokens{
      0};  // prompt tokens of requests that have not begun to answer

  // Null while there is no engine.
  std::shared_ptr<const ServedModel> model() const {
    std::lock_guard lock(mutex_);
    return model_;
  }
  void SetModel(std::shared_ptr<const ServedModel> model) {
    std::lock_guard lock(mutex_);
    model_ = std::move(model);
  }

  // An answer that says `error`, with the headers its status wants.
  HttpResponse ErrorResponse(const ApiError& error) const;
  ApiError LoadingError() const;

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const ServedModel> model_;
};

// Makes the answer on a worker thread and sends it from the connection's strand. An exception
// becomes a 500.
std::shared_ptr<Exchange> AnswerOnWorker(App* app, std::shared_ptr<Responder> responder,
                                         std::function<HttpResponse()> make);

}  // namespace lserve
