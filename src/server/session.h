// One HTTP/1.1 connection: reads a request within the limits, has the handler answer it, and
// meanwhile goes on reading so that a client that leaves is noticed at once. One request at a time;
// what a pipelining client sent ahead waits in the buffer. Written over a stream type, so that TLS
// is another instantiation. Everything runs on the stream's strand.
#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/http_types.h"
#include "server/options.h"
#include "server/tls.h"

namespace lserve {

// A connection as the server knows it. Any thread.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual void Close() = 0;  // at once
  virtual void CloseIfIdle() = 0;

 private:
  friend class SessionHost;
  uint64_t waits_ = 0;  // its place among those that wait for their clients; 0: it does not
};

// What sessions share: options, handler, and the set of those alive. Any thread; outlives every
// session.
class SessionHost {
 public:
  SessionHost(const ServerOptions* options, HttpHandler handler)
      : options(options), handler(std::move(handler)) {}

  void Add(Connection* connection, std::weak_ptr<Connection> self);
  void Remove(Connection* connection);
  int count() const { return count_; }
  std::vector<std::shared_ptr<Connection>> All();
  // It waits for its client to send a whole request, from now on; or no longer does.
  void Waits(Connection* connection);
  void WaitsNoLonger(Connection* connection);
  // Makes room for another: closes the one that has waited for its client for longest. False: none
  // waits, every one is being answered.
  bool CloseLongestWaiting();
  // False: there were connections left at `deadline`.
  bool WaitUntilEmpty(std::chrono::steady_clock::time_point deadline);

  const ServerOptions* const options;
  const HttpHandler handler;
  std::atomic<bool> draining{false};  // answers say "Connection: close"

 private:
  void Forget(Connection* connection);  // of those that wait

  std::mutex mutex_;
  std::condition_variable empty_;
  std::map<Connection*, std::weak_ptr<Connection>> connections_;
  std::map<uint64_t, Connection*> waiting_;  // the longest waiting first
  uint64_t last_wait_ = 0;
  std::atomic<int> count_{0};
};

template <typename Stream>
class Session : public Responder,
                public Connection,
                public std::enable_shared_from_this<Session<Stream>> {
 public:
  Session(Stream stream, SessionHost* host);
  ~Session() override;

  void Start();
  // Answers nothing but `error`, then closes.
  void StartRejecting(ApiError error);

  void Close() override;
  void CloseIfIdle() override;

  void Send(HttpResponse response) override;
  void BeginStream(HttpResponse head) override;
  void Write(std::string_view piece) override;
  void End() override;
  boost::asio::any_io_executor executor() override { return stream_.get_executor(); }

 private:
  enum class State {
    kIdle,      // between requests
    kReading,   // headers or body
    kBusy,      // the handler works or streams
    kFlushing,  // the answer is complete, not all of it is sent
    kLinger,    // answered and shut down; reads until the client closes, so that it sees the answer
    kClosed,
  };
  using Milliseconds = std::chrono::milliseconds;

  std::shared_ptr<Session> self() { return this->shared_from_this(); }
  void Begin(std::function<void()> next);
  void WaitForData();
  void OnData(boost::system::error_code ec, size_t bytes);
  void ReadRequest();
  void OnHeader(boost::system::error_code ec);
  void OnBody(boost::system::error_code ec);
  void OnReadError(boost::system::error_code ec);
  void Fail(const ApiError& error);
  void Gone();
  void NextRequest();

  std::string Head(const HttpResponse& response, std::optional<size_t> length);
  void Queue(std::string_view bytes);
  void Pump();
  void OnWritten(boost::system::error_code ec, size_t bytes);
  void Linger();
  void DoClose();

  void SetDeadline(Milliseconds time);  // 0: none
  void OnDeadline();

  Stream stream_;
  SessionHost* const host_;
  const ServerOptions& options_;
  boost::asio::steady_timer deadline_, write_deadline_;
  State state_ = State::kIdle;

  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  bool watching_ = false;  // a WaitForData is under way
  bool reading_ = false;   // a read into parser_ is under way

  std::shared_ptr<Exchange> exchange_;
  bool head_only_ = false, keep_alive_ = false, chunked_ = false, started_ = false, http10_ = false;

  std::string sending_, waiting_;  // being written; behind it
  size_t sent_ = 0;                // of sending_
  bool writing_ = false;
};

extern template class Session<boost::asio::ip::tcp::socket>;
extern template class Session<TlsStream>;

}  // namespace lserve
