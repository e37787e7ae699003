// URLs of http and https servers, as far as a download client needs them. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "core/status.h"

namespace lserve {

struct Url {
  bool tls = false;
  std::string host, port;  // an IPv6 address without its brackets
  std::string target;      // path and query, starts with '/'

  // scheme://host:port, equal for equal servers.
  std::string Origin() const;
  std::string ToString() const { return Origin() + target; }
};

Result<Url> ParseUrl(std::string_view text);
// What a Location header of an answer from `base` points to: a whole URL, //host/path, or a path.
Result<Url> ResolveUrl(const Url& base, std::string_view location);
// Percent-encodes everything but unreserved characters and '/'.
std::string EncodePath(std::string_view path);
// The same, '/' too.
std::string EncodeSegment(std::string_view segment);

}  // namespace lserve
