#include "server/session.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core/stream_traits.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/status.hpp>
#include <tuple>

namespace lserve {
namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

constexpr size_t kReadAhead = 64 << 10;  // bytes taken from a client before its turn
constexpr std::chrono::milliseconds kLingerTime{2000};

std::string ToString(boost::beast::string_view text) { return {text.data(), text.size()}; }

// What a client may choose as request id: it ends up in a header of ours.
bool IsPlainId(boost::beast::string_view id) {
  if (id.empty() || id.size() > 128) return false;
  for (const char c : id) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       c == '-' || c == '_' || c == '.';
    if (!plain) return false;
  }
  return true;
}

HttpRequest MakeRequest(http::request<http::string_body>&& message) {
  HttpRequest request;
  request.method = ToString(message.method_string());
  std::string target = ToString(message.target());
  if (const size_t scheme = target.find("://"); scheme != std::string::npos && target[0] != '/') {
    const size_t path = target.find('/', scheme + 3);
    target = path == std::string::npos ? "/" : target.substr(path);
  }
  request.path = target.substr(0, target.find_first_of("?#"));
  request.authorization = ToString(message[http::field::authorization]);
  request.content_type = ToString(message[http::field::content_type]);
  request.origin = ToString(message[http::field::origin]);
  if (const auto id = message["X-Request-Id"]; IsPlainId(id)) request.request_id = ToString(id);
  request.body = std::move(message.body());
  return request;
}

}  // namespace

void SessionHost::Add(Connection* connection, std::weak_ptr<Connection> self) {
  std::lock_guard lock(mutex_);
  connections_.emplace(connection, std::move(self));
  count_ = static_cast<int>(connections_.size());
}

void SessionHost::Remove(Connection* connection) {
  std::lock_guard lock(mutex_);
  Forget(connection);
  connections_.erase(connection);
  count_ = static_cast<int>(connections_.size());
  if (connections_.empty()) empty_.notify_all();
}

bool SessionHost::WaitUntilEmpty(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return empty_.wait_until(lock, deadline, [&] { return connections_.empty(); });
}

std::vector<std::shared_ptr<Connection>> SessionHost::All() {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Connection>> all;
  for (auto& [key, weak] : connections_) {
    if (auto connection = weak.lock()) all.push_back(std::move(connection));
  }
  return all;
}

void SessionHost::Forget(Connection* connection) {
  waiting_.erase(connection->waits_);
  connection->waits_ = 0;
}

void SessionHost::Waits(Connection* connection) {
  std::lock_guard lock(mutex_);
  Forget(connection);
  waiting_.emplace(connection->waits_ = ++last_wait_, connection);
}

void SessionHost::WaitsNoLonger(Connection* connection) {
  std::lock_guard lock(mutex_);
  Forget(connection);
}

bool SessionHost::CloseLongestWaiting() {
  std::shared_ptr<Connection> longest;
  {
    std::lock_guard lock(mutex_);
    while (!waiting_.empty() && !longest) {
      Connection* const first = waiting_.begin()->second;
      Forget(first);  // not a second time
      longest = connections_[first].lock();
    }
  }
  if (!longest) return false;
  longest->Close();
  return true;
}

template <typename Stream>
Session<Stream>::Session(Stream stream, SessionHost* host)
    : stream_(std::move(stream)),
      host_(host),
      options_(*host->options),
      deadline_(stream_.get_executor()),
      write_deadline_(stream_.get_executor()),
      buffer_(options_.header_bytes + 2 * kReadAhead) {}

template <typename Stream>
Session<Stream>::~Session() {
  host_->Remove(this);
}

template <typename Stream>
void Session<Stream>::Start() {
  host_->Add(this, self());
  host_->Waits(this);
  Begin([this] {
    SetDeadline(options_.idle_time);
    WaitForData();
  });
}

// Runs `next` on the strand, with TLS once the client is known to speak it.
template <typename Stream>
void Session<Stream>::Begin(std::function<void()> next) {
  net::post(stream_.get_executor(), [me = self(), next = std::move(next)] {
    if (me->state_ == State::kClosed) return;
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      me->SetDeadline(me->options_.header_time);
      me->stream_.async_handshake(TlsStream::server, [me, next](error_code ec) {
        if (me->state_ == State::kClosed) return;
        if (ec) return me->DoClose();
        next();
      });
    } else {
      next();
    }
  });
}

template <typename Stream>
void Session<Stream>::StartRejecting(ApiError error) {
  host_->Add(this, self());
  Begin([this, error = std::move(error)] { Fail(error); });
}

template <typename Stream>
void Session<Stream>::Close() {
  net::post(stream_.get_executor(), [me = self()] { me->DoClose(); });
}

template <typename Stream>
void Session<Stream>::CloseIfIdle() {
  net::post(stream_.get_executor(), [me = self()] {
    if (me->state_ == State::kIdle && me->buffer_.size() == 0) me->DoClose();
  });
}

// ---- reading

template <typename Stream>
void Session<Stream>::WaitForData() {
  watching_ = true;
  stream_.async_read_some(buffer_.prepare(8192),
                          [me = self()](error_code ec, size_t bytes) { me->OnData(ec, bytes); });
}

template <typename Stream>
void Session<Stream>::OnData(error_code ec, size_t bytes) {
  watching_ = false;
  if (state_ == State::kClosed) return;
  buffer_.commit(bytes);
  if (ec == net::error::operation_aborted && state_ == State::kIdle) {
    ReadRequest();  // NextRequest wants the stream for the request that is in the buffer
    return;
  }
  if (ec) {
    if (state_ == State::kFlushing) return;  // it may still be reading; writing will tell
    Gone();
    return;
  }
  switch (state_) {
    case State::kIdle:
      ReadRequest();
      break;
    case State::kLinger:
      buffer_.consume(buffer_.size());
      WaitForData();
      break;
    default:
      if (buffer_.size() < kReadAhead) WaitForData();
  }
}

template <typename Stream>
void Session<Stream>::ReadRequest() {
  state_ = State::kReading;
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(options_.header_bytes));
  parser_->body_limit(options_.body_bytes);
  head_only_ = keep_alive_ = chunked_ = started_ = http10_ = false;
  SetDeadline(options_.header_time);  // it has been waiting since it was idle
  reading_ = true;
  http::async_read_header(stream_, buffer_, *parser_,
                          [me = self()](error_code ec, size_t) { me->OnHeader(ec); });
}

template <typename Stream>
void Session<Stream>::OnHeader(error_code ec) {
  reading_ = false;
  if (state_ != State::kReading) return;
  if (ec) return OnReadError(ec);
  const auto& message = parser_->get();
  http10_ = message.version() < 11;
  head_only_ = message.method() == http::verb::head;
  const auto count = static_cast<size_t>(std::distance(message.begin(), message.end()));
  if (count > options_.header_count) {
    return Fail(
        {431,
         fmt::format("the request has {} headers, the limit is {}", count, options_.header_count),
         "", "headers_too_large"});
  }
  // A coding that nobody undoes here: its bytes would be taken for JSON, or for the next request.
  for (const auto& [field, status, known] :
       {std::tuple{http::field::transfer_encoding, 501, "chunked"},
        {http::field::content_encoding, 415, "identity"}}) {
    const std::string value(message[field]);
    if (message.count(field) == 0 ||
        (message.count(field) == 1 && boost::beast::iequals(value, known)))
      continue;
    return Fail({status,
                 fmt::format("{}: '{}' is not supported, only {} is",
                             std::string(http::to_string(field)), value, known),
                 "", "unsupported_encoding"});
  }
  if (!http10_ && boost::beast::iequals(message[http::field::expect], "100-continue")) {
    Queue("HTTP/1.1 100 Continue\r\n\r\n");
  }
  SetDeadline(options_.body_time);
  reading_ = true;
  http::async_read(stream_, buffer_, *parser_,
                   [me = self()](error_code ec, size_t) { me->OnBody(ec); });
}

template <typename Stream>
void Session<Stream>::OnBody(error_code ec) {
  reading_ = false;
  if (state_ != State::kReading) return;
  if (ec) return OnReadError(ec);
  keep_alive_ = parser_->get().keep_alive();
  HttpRequest request = MakeRequest(parser_->release());
  parser_.reset();
  state_ = State::kBusy;
  host_->WaitsNoLonger(this);
  SetDeadline(options_.request_time);
  std::shared_ptr<Exchange> exchange = host_->handler(std::move(request), self());
  if (state_ == State::kBusy) exchange_ = std::move(exchange);
  if (state_ != State::kClosed) WaitForData();
}

template <typename Stream>
void Session<Stream>::OnReadError(error_code ec) {
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
    return Fail({431,
                 fmt::format("the request line and headers are larger than {} bytes",
                             options_.header_bytes),
                 "", "headers_too_large"});
  }
  if (ec == http::error::body_limit) {
    return Fail({413, fmt::format("the body is larger than {} bytes", options_.body_bytes), "",
                 "body_too_large"});
  }
  if (ec == http::error::end_of_stream || ec == http::error::partial_message ||
      ec.category() != make_error_code(http::error::end_of_stream).category()) {
    return Gone();
  }
  Fail({400, fmt::format("malformed HTTP request: {}", ec.message()), "", "bad_request"});
}

// An answer to what never became a request; the connection cannot be used further.
template <typename Stream>
void Session<Stream>::Fail(const ApiError& error) {
  if (state_ == State::kClosed) return;
  state_ = State::kBusy;
  host_->WaitsNoLonger(this);
  keep_alive_ = false;
  HttpResponse response{error.status, error.ToJson()};
  if (error.status == 503) {
    response.headers.push_back({"Retry-After", std::to_string(options_.retry_after_seconds)});
  }
  Send(std::move(response));
}

// The client is not there any more.
template <typename Stream>
void Session<Stream>::Gone() {
  if (state_ == State::kClosed) return;
  DoClose();
}

// REQUIRES: the answer is sent.
template <typename Stream>
void Session<Stream>::NextRequest() {
  exchange_.reset();
  if (!keep_alive_ || host_->draining) return Linger();
  state_ = State::kIdle;
  host_->Waits(this);
  SetDeadline(options_.idle_time);
  if (!watching_) {
    if (buffer_.size() > 0) {
      ReadRequest();
    } else {
      WaitForData();
    }
  } else if (buffer_.size() > 0) {
    error_code ignored;
    boost::beast::get_lowest_layer(stream_).cancel(ignored);  // OnData goes on
  }
}

// ---- answering

template <typename Stream>
std::string Session<Stream>::Head(const HttpResponse& response, std::optional<size_t> length) {
  if (host_->draining) keep_alive_ = false;
  const auto reason =
      http::obsolete_reason(http::int_to_status(static_cast<unsigned>(response.status)));
  std::string head =
      fmt::format("HTTP/1.1 {} {}\r\nServer: lserve\r\n", response.status,
                  response.status == 499 ? "Client Closed Request"  // nginx's, in no standard
                                         : std::string_view(reason.data(), reason.size()));
  if (!response.content_type.empty() && response.status != 204) {
    head += fmt::format("Content-Type: {}\r\n", response.content_type);
  }
  for (const auto& [name, value] : response.headers) head += fmt::format("{}: {}\r\n", name, value);
  if (length && response.status != 204) head += fmt::format("Content-Length: {}\r\n", *length);
  if (chunked_) head += "Transfer-Encoding: chunked\r\n";
  if (!keep_alive_) {
    head += "Connection: close\r\n";
  } else if (http10_) {
    head += "Connection: keep-alive\r\n";
  }
  return head + "\r\n";
}

template <typename Stream>
void Session<Stream>::Send(HttpResponse response) {
  if (state_ != State::kBusy || started_) return;
  started_ = true;
  std::string bytes = Head(response, response.body.size());
  if (!head_only_) bytes += response.body;
  state_ = State::kFlushing;
  SetDeadline(Milliseconds(0));
  Queue(bytes);
}

template <typename Stream>
void Session<Stream>::BeginStream(HttpResponse head) {
  if (state_ != State::kBusy || started_) return;
  started_ = true;
  chunked_ = !http10_;
  if (http10_) keep_alive_ = false;  // the end of the connection is the end of the answer
  Queue(Head(head, std::nullopt));
  Write(head.body);
}

template <typename Stream>
void Session<Stream>::Write(std::string_view piece) {
  if (state_ != State::kBusy || !started_ || piece.empty() || head_only_) return;
  if (waiting_.size() + sending_.size() - sent_ > options_.stream_buffer) {
    return Gone();  // it does not read: nothing more is kept for it
  }
  Queue(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::string(piece));
}

template <typename Stream>
void Session<Stream>::End() {
  if (state_ != State::kBusy || !started_) return;
  state_ = State::kFlushing;
  SetDeadline(Milliseconds(0));
  Queue(chunked_ && !head_only_ ? "0\r\n\r\n" : "");
}

template <typename Stream>
void Session<Stream>::Queue(std::string_view bytes) {
  waiting_ += bytes;
  if (!writing_) Pump();
}

template <typename Stream>
void Session<Stream>::Pump() {
  if (sent_ == sending_.size()) {
    sending_ = std::exchange(waiting_, {});
    sent_ = 0;
  }
  writing_ = true;
  if (sending_.empty()) {  // an end without bytes
    net::post(stream_.get_executor(), [me = self()] { me->OnWritten({}, 0); });
    return;
  }
  write_deadline_.expires_after(options_.write_time);
  write_deadline_.async_wait([me = self()](error_code ec) {
    if (!ec && me->writing_ && std::chrono::steady_clock::now() >= me->write_deadline_.expiry()) {
      me->Gone();
    }
  });
  stream_.async_write_some(
      net::buffer(sending_.data() + sent_, sending_.size() - sent_),
      [me = self()](error_code ec, size_t bytes) { me->OnWritten(ec, bytes); });
}

template <typename Stream>
void Session<Stream>::OnWritten(error_code ec, size_t bytes) {
  writing_ = false;
  if (state_ == State::kClosed) return;
  if (ec) return Gone();
  sent_ += bytes;
  if (sent_ < sending_.size() || !waiting_.empty()) return Pump();
  write_deadline_.cancel();
  if (state_ == State::kFlushing) NextRequest();
}

template <typename Stream>
void Session<Stream>::Linger() {
  state_ = State::kLinger;
  error_code ec;
  if constexpr (std::is_same_v<Stream, TlsStream>) {
    // The client's close, or a read that is under way, or the deadline ends it.
    SetDeadline(kLingerTime);
    stream_.async_shutdown([me = self()](error_code) { me->DoClose(); });
    return;
  }
  boost::beast::get_lowest_layer(stream_).shutdown(net::ip::tcp::socket::shutdown_send, ec);
  if (ec || reading_) return DoClose();
  SetDeadline(kLingerTime);
  buffer_.consume(buffer_.size());
  if (!watching_) WaitForData();
}

template <typename Stream>
void Session<Stream>::DoClose() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  deadline_.cancel();
  write_deadline_.cancel();
  error_code ignored;
  auto& socket = boost::beast::get_lowest_layer(stream_);
  socket.shutdown(net::ip::tcp::socket::shutdown_both, ignored);
  socket.close(ignored);
  if (auto exchange = std::exchange(exchange_, nullptr)) {
    exchange->Abort(AbortReason::kDisconnected);
  }
}

template <typename Stream>
void Session<Stream>::SetDeadline(Milliseconds time) {
  if (time.count() == 0) {
    deadline_.expires_at(std::chrono::steady_clock::time_point::max());
    return;
  }
  deadline_.expires_after(time);
  deadline_.async_wait([me = self()](error_code ec) {
    if (!ec && std::chrono::steady_clock::now() >= me->deadline_.expiry()) me->OnDeadline();
  });
}

template <typename Stream>
void Session<Stream>::OnDeadline() {
  error_code ignored;
  switch (state_) {
    case State::kReading:
      boost::beast::get_lowest_layer(stream_).cancel(ignored);
      Fail({408, "the request did not arrive in time", "", "request_timeout"});
      break;
    case State::kBusy:
      if (exchange_) exchange_->Abort(AbortReason::kTimedOut);
      break;
    default:
      DoClose();
  }
}

template class Session<net::ip::tcp::socket>;
template class Session<TlsStream>;

}  // namespace lserve
