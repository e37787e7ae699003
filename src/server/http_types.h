// A request and its answer as the router and the endpoints see them: no sockets, no Beast. A
// session (session.h) makes the request and is the Responder; everything about one connection, its
// Responder and its Exchange included, happens on the connection's strand.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lserve {

struct HttpRequest {
  std::string method, path;  // path without query
  std::string authorization, content_type, origin, request_id;
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers = {};
};

// The answering side of one request. Either Send once, or BeginStream, Write as often as wanted,
// End. After an abort, and for a HEAD request, what is not wanted is dropped silently.
class Responder {
 public:
  virtual ~Responder() = default;
  virtual void Send(HttpResponse response) = 0;
  virtual void BeginStream(HttpResponse head) = 0;  // its body is the first piece
  virtual void Write(std::string_view piece) = 0;
  virtual void End() = 0;
  // The strand on which everything of this connection runs.
  virtual boost::asio::any_io_executor executor() = 0;
};

enum class AbortReason {
  kDisconnected,  // the client went away or does not read; nothing can be sent any more
  kTimedOut,      // request_time is over; an error is to be sent
  kRequested,     // somebody asked for it; likewise
};

// A request that is being worked on and not answered yet. The session keeps it alive until the
// answer is complete.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual void Abort(AbortReason reason) = 0;
};

// Answers at once and returns null, or returns what is going on.
using HttpHandler =
    std::function<std::shared_ptr<Exchange>(HttpRequest request, std::shared_ptr<Responder>)>;

}  // namespace lserve
