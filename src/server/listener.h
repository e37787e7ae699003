// Accepts connections and starts a session for each, as many at once as allowed.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>

#include "core/status.h"
#include "server/session.h"

namespace lserve {

class Listener : public std::enable_shared_from_this<Listener> {
 public:
  // Both outlive the listener.
  Listener(boost::asio::io_context* io, SessionHost* host);

  // Connections speak TLS. Before Accept.
  void UseTls(std::shared_ptr<TlsContext> tls) { tls_ = std::move(tls); }

  // Binds and listens. Errors name the address.
  Status Open();
  // Starts accepting.
  void Accept();
  // Any thread: no connection is accepted any more.
  void Close();
  int port() const { return port_; }

 private:
  template <typename Stream>
  void Start(Stream stream);
  void OnAccept(boost::system::error_code ec, boost::asio::ip::tcp::socket socket);

  boost::asio::io_context* const io_;
  SessionHost* const host_;
  std::shared_ptr<TlsContext> tls_;
  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::steady_timer pause_;
  int port_ = 0;
};

}  // namespace lserve
