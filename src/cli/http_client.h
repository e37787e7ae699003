// A small HTTP/1.1 client for downloads: one GET a connection, http and https, redirects followed.
// Blocking. An object may be used from one thread at a time; objects are independent.
// https checks the server's certificate against the system's (or SSL_CERT_FILE's) authorities and
// its host name.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "cli/url.h"
#include "core/status.h"

namespace lserve {

struct HttpResponse {
  int status = 0;
  std::optional<int64_t> range_begin;  // 206: first byte that the body holds
  std::string error_body;              // start of the body of an answer that is not 2xx
};

class HttpClient {
 public:
  struct Options {
    std::chrono::seconds timeout{60};  // for each connect, write and read
    int max_redirects = 10;
    std::string token;  // bearer token; sent to the first URL's origin only
  };
  // Called once per answer that is 2xx, before its body. An error ends the exchange and is
  // returned.
  using HeadSink = std::function<Status(const HttpResponse&)>;
  using BodySink = std::function<Status(std::string_view piece)>;

  explicit HttpClient(Options options) : options_(std::move(options)) {}

  // Gets `url` from byte `offset` on (a Range request if it is not 0; the server may ignore that:
  // see status and range_begin). Errors: kUnavailable for the network and for a body that ends
  // early, and whatever the sinks return.
  Result<HttpResponse> Get(const Url& url, int64_t offset, const HeadSink& head,
                           const BodySink& body);

 private:
  Options options_;
};

}  // namespace lserve
