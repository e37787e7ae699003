// The TLS side of the server: from files to a context. Thread rules are OpenSSL's: a context may be
// shared once it is made.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <memory>
#include <string>

#include "core/status.h"

namespace lserve {

using TlsContext = boost::asio::ssl::context;
using TlsStream = boost::asio::ssl::stream<boost::asio::ip::tcp::socket>;

// TLS 1.2 and newer. `cert`: PEM file with the chain, the server's own certificate first; `key`:
// PEM file of its private key. Errors name the flag and the file.
Result<std::shared_ptr<TlsContext>> MakeTlsContext(const std::string& cert, const std::string& key);

}  // namespace lserve
