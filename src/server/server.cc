#include "server/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/thread_pool.hpp>
#include <mutex>
#include <thread>
#include <vector>

#include "server/app.h"
#include "server/listener.h"
#include "server/router.h"
#include "server/session.h"

namespace lserve {
namespace {

namespace net = boost::asio;
using Clock = std::chrono::steady_clock;

Status CheckOptions(const ServerOptions& o) {
  if (o.port < 0 || o.port > 65535)
    return InvalidArgument("--port: {} (must be 0 to 65535)", o.port);
  if (o.network_threads < 1) return InvalidArgument("network_threads: must be at least 1");
  if (o.worker_threads < 1) return InvalidArgument("worker_threads: must be at least 1");
  if (o.connections < 1) return InvalidArgument("connections: must be at least 1");
  for (const std::string& key : o.api_keys) {
    if (key.empty()) return InvalidArgument("API key: empty");
  }
  return Ok();
}

class ServerImpl : public Server {
 public:
  explicit ServerImpl(ServerOptions options)
      : app_(std::move(options), &workers_),
        router_(&app_),
        host_(&app_.options,
              [this](HttpRequest request, std::shared_ptr<Responder> responder) {
                return router_.Handle(std::move(request), std::move(responder));
              }),
        io_(std::max(1, app_.options.network_threads)),
        workers_(static_cast<size_t>(std::max(1, app_.options.worker_threads))),
        listener_(std::make_shared<Listener>(&io_, &host_)) {}

  ~ServerImpl() override { Stop(); }

  Status Init(Engine* engine) {
    if (!app_.options.chat_template.empty()) {
      auto parsed = ChatTemplate::Parse(app_.options.chat_template, app_.options.template_limits);
      if (!parsed.ok()) return parsed.status().Annotate("chat template");
    }
    const ServerOptions& options = app_.options;
    if (!options.tls_cert.empty() || !options.tls_key.empty()) {
      auto tls = MakeTlsContext(options.tls_cert, options.tls_key);
      if (!tls.ok()) return tls.status();
      listener_->UseTls(std::move(*tls));
    }
    if (Status s = listener_->Open(); !s.ok()) return s;
    if (engine) {
      // A model's own template that cannot be read keeps only chats from working.
      if (Status s = SetEngine(engine); !s.ok()) spdlog::warn("{}", s.message());
    }
    listener_->Accept();
    for (int i = 0; i < app_.options.network_threads; ++i) {
      threads_.emplace_back([this] { io_.run(); });
    }
    return Ok();
  }

  Status SetEngine(Engine* engine) override {
    auto model = std::make_shared<const ServedModel>(engine, &app_.options);
    CHECK(!app_.model());
    app_.metrics.SetModel(model->name());
    app_.SetModel(model);
    return model->template_status();
  }

  int port() const override { return listener_->port(); }

  bool Drain(std::chrono::milliseconds timeout) override {
    host_.draining = true;
    listener_->Close();
    for (const auto& connection : host_.All()) connection->CloseIfIdle();
    const bool whole = host_.WaitUntilEmpty(Clock::now() + timeout);
    Stop();
    return whole;
  }

  void Stop() override {
    std::lock_guard lock(stop_mutex_);
    if (threads_.empty()) return;
    host_.draining = true;
    listener_->Close();
    for (const auto& connection : host_.All()) connection->Close();
    workers_.stop();
    workers_.join();
    // Sessions end when their last operation does; those that wait for a job that was dropped never
    // would.
    host_.WaitUntilEmpty(Clock::now() + std::chrono::seconds(1));
    app_.hub->Close();
    app_.calls.Close();
    work_.reset();
    io_.stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  // Destroyed in reverse order: what is queued in io_ and workers_ holds sessions, which know app_
  // and host_.
  std::mutex stop_mutex_;
  App app_;
  Router router_;
  SessionHost host_;
  net::io_context io_;
  net::executor_work_guard<net::io_context::executor_type> work_{io_.get_executor()};
  net::thread_pool workers_;
  std::shared_ptr<Listener> listener_;
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(ServerOptions options, Engine* engine) {
  if (Status s = CheckOptions(options); !s.ok()) return s;
  auto server = std::make_unique<ServerImpl>(std::move(options));
  if (Status s = server->Init(engine); !s.ok()) return s;
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace lserve
