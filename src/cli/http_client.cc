#include "cli/http_client.h"

#include <openssl/ssl.h>

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <limits>

namespace lserve {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using beast::error_code;
using tcp = asio::ip::tcp;
using TlsStream = asio::ssl::stream<beast::tcp_stream>;

constexpr size_t kMaxErrorBody = 4096;
constexpr uint32_t kMaxHeaderBytes = 64 * 1024;
constexpr size_t kPieceBytes = 256 * 1024;

// "bytes 100-199/200" -> 100
std::optional<int64_t> RangeBegin(std::string_view header) {
  if (header.rfind("bytes ", 0) != 0) return std::nullopt;
  header.remove_prefix(6);
  int64_t begin = 0;
  auto [end, error] = std::from_chars(header.data(), header.data() + header.size(), begin);
  if (error != std::errc() || end == header.data() + header.size() || *end != '-') {
    return std::nullopt;
  }
  return begin;
}

// One request and its answer on a connection of its own.
class Exchange {
 public:
  Exchange(const Url& url, std::chrono::seconds timeout) : url_(url), timeout_(timeout) {}

  // `location` is set if the answer is a redirect.
  Result<HttpResponse> Run(int64_t offset, const std::string& token,
                           const HttpClient::HeadSink& head, const HttpClient::BodySink& body,
                           std::string* location) {
    if (!url_.tls) {
      beast::tcp_stream stream(io_);
      if (Status s = Connect(stream); !s.ok()) return s;
      return Transfer(stream, offset, token, head, body, location);
    }
    asio::ssl::context context(asio::ssl::context::tls_client);
    error_code ec;
    context.set_default_verify_paths(ec);
    TlsStream stream(io_, context);
    stream.set_verify_mode(asio::ssl::verify_peer, ec);
    stream.set_verify_callback(asio::ssl::host_name_verification(url_.host), ec);
    SSL_set_tlsext_host_name(stream.native_handle(), url_.host.c_str());
    if (Status s = Connect(beast::get_lowest_layer(stream)); !s.ok()) return s;
    ec = Wait(beast::get_lowest_layer(stream),
              [&](auto done) { stream.async_handshake(asio::ssl::stream_base::client, done); });
    if (ec) return Failed("TLS", ec);
    return Transfer(stream, offset, token, head, body, location);
  }

 private:
  // Starts one operation and runs it to its end or the timeout.
  template <typename Start>
  error_code Wait(beast::tcp_stream& lowest, Start start) {
    error_code result;
    lowest.expires_after(timeout_);
    start([&](error_code ec, auto&&...) { result = ec; });
    io_.restart();
    io_.run();
    return result;
  }

  Status Failed(const char* what, error_code ec) const {
    if (ec == beast::error::timeout) {
      return Unavailable("{}: {}: no answer for {} s", url_.Origin(), what, timeout_.count());
    }
    return Unavailable("{}: {}: {}", url_.Origin(), what, ec.message());
  }

  Status Connect(beast::tcp_stream& stream) {
    error_code ec;
    auto addresses = tcp::resolver(io_).resolve(url_.host, url_.port, ec);
    if (ec) return Failed("name look-up", ec);
    ec = Wait(stream, [&](auto done) { stream.async_connect(addresses, done); });
    return ec ? Failed("connect", ec) : Ok();
  }

  template <typename Stream>
  Result<HttpResponse> Transfer(Stream& stream, int64_t offset, const std::string& token,
                                const HttpClient::HeadSink& head, const HttpClient::BodySink& body,
                                std::string* location) {
    beast::tcp_stream& lowest = beast::get_lowest_layer(stream);
    http::request<http::empty_body> request(http::verb::get, url_.target, 11);
    request.set(http::field::host, url_.Origin().substr(url_.tls ? 8 : 7));
    request.set(http::field::user_agent, "lserve");
    request.set(http::field::accept_encoding, "identity");
    request.set(http::field::connection, "close");
    if (!token.empty()) request.set(http::field::authorization, "Bearer " + token);
    if (offset > 0) request.set(http::field::range, "bytes=" + std::to_string(offset) + "-");
    error_code ec = Wait(lowest, [&](auto done) { http::async_write(stream, request, done); });
    if (ec) return Failed("request", ec);

    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.header_limit(kMaxHeaderBytes);
    parser.body_limit(std::numeric_limits<uint64_t>::max());  // the sink knows what it wants
    ec = Wait(lowest, [&](auto done) { http::async_read_header(stream, buffer, parser, done); });
    if (ec) return Failed("answer", ec);
    const auto& message = parser.get();
    HttpResponse response;
    response.status = message.result_int();
    bool success = response.status / 100 == 2;
    if (response.status == 206) {
      auto range = message[http::field::content_range];
      response.range_begin = RangeBegin({range.data(), range.size()});
    }
    if (response.status / 100 == 3) {
      auto target = message[http::field::location];
      *location = std::string(target.data(), target.size());
    }
    if (success) {
      if (Status s = head(response); !s.ok()) return s;
    }

    std::vector<char> piece(kPieceBytes);
    while (!parser.is_done()) {
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      parser.get().body().more = true;
      ec = Wait(lowest, [&](auto done) { http::async_read(stream, buffer, parser, done); });
      if (ec == http::error::need_buffer) ec = {};
      std::string_view got(piece.data(), piece.size() - parser.get().body().size);
      if (!success) {
        response.error_body += got.substr(0, kMaxErrorBody - response.error_body.size());
        if (ec || response.error_body.size() == kMaxErrorBody) break;
      } else if (!got.empty()) {
        if (Status s = body(got); !s.ok()) return s;
      }
      if (ec) return Failed("body", ec);
    }
    return response;
  }

  Url url_;
  std::chrono::seconds timeout_;
  asio::io_context io_{1};
};

}  // namespace

Result<HttpResponse> HttpClient::Get(const Url& url, int64_t offset, const HeadSink& head,
                                     const BodySink& body) {
  Url at = url;
  for (int hop = 0; hop <= options_.max_redirects; ++hop) {
    std::string location;
    const std::string token = at.Origin() == url.Origin() ? options_.token : "";
    Result<HttpResponse> response =
        Exchange(at, options_.timeout).Run(offset, token, head, body, &location);
    if (!response.ok() || location.empty()) return response;
    Result<Url> next = ResolveUrl(at, location);
    if (!next.ok()) return next.status().Annotate(at.ToString() + ": redirect");
    if (at.tls && !next->tls) {
      return Unavailable("{}: redirect from https to {}", at.ToString(), next->ToString());
    }
    at = *next;
  }
  return Unavailable("{}: more than {} redirects", url.ToString(), options_.max_redirects);
}

}  // namespace lserve
