#include "server/listener.h"

#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>

namespace lserve {

namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

namespace {
constexpr int kRejections = 64;  // connections over the limit that are still told so
}

Listener::Listener(net::io_context* io, SessionHost* host)
    : io_(io), host_(host), acceptor_(net::make_strand(*io)), pause_(acceptor_.get_executor()) {}

Status Listener::Open() {
  const ServerOptions& options = *host_->options;
  const std::string address = fmt::format("{}:{}", options.host, options.port);
  error_code ec;
  tcp::resolver resolver(*io_);
  const auto found = resolver.resolve(options.host, std::to_string(options.port),
                                      tcp::resolver::passive | tcp::resolver::numeric_service, ec);
  if (ec || found.empty()) return NotFound("--host {}: {}", options.host, ec.message());
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor_.open(endpoint.protocol(), ec);
  if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec) acceptor_.listen(tcp::acceptor::max_listen_connections, ec);
  if (ec) return Unavailable("cannot listen on {}: {}", address, ec.message());
  port_ = acceptor_.local_endpoint().port();
  return Ok();
}

void Listener::Accept() {
  acceptor_.async_accept(net::make_strand(*io_),
                         [me = shared_from_this()](error_code ec, tcp::socket socket) {
                           me->OnAccept(ec, std::move(socket));
                         });
}

void Listener::OnAccept(error_code ec, tcp::socket socket) {
  if (!acceptor_.is_open()) return;
  if (ec) {  // e.g. no file descriptor is left: wait until connections have ended
    host_->CloseLongestWaiting();
    pause_.expires_after(std::chrono::milliseconds(50));
    pause_.async_wait([me = shared_from_this()](error_code) {
      if (me->acceptor_.is_open()) me->Accept();
    });
    return;
  }
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  if (tls_) {
    Start(TlsStream(std::move(socket), *tls_));
  } else {
    Start(std::move(socket));
  }
  Accept();
}

template <typename Stream>
void Listener::Start(Stream stream) {
  const int limit = host_->options->connections;
  const int open = host_->count();
  if (open >= limit + kRejections) return;
  auto session = std::make_shared<Session<Stream>>(std::move(stream), host_);
  // Whoever opens connections and sends nothing does not keep others out.
  if (open < limit || host_->CloseLongestWaiting()) {
    session->Start();
  } else {
    session->StartRejecting({503,
                             fmt::format("{} connections are open, the limit is {}", open, limit),
                             "", "too_many_connections"});
  }
}

void Listener::Close() {
  net::post(acceptor_.get_executor(), [me = shared_from_this()] {
    error_code ignored;
    me->acceptor_.close(ignored);
    me->pause_.cancel();
  });
}

}  // namespace lserve
