#include "cli/url.h"

#include <algorithm>
#include <cctype>

namespace lserve {
namespace {

bool IsPort(std::string_view text) {
  return !text.empty() && text.size() <= 5 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

// Characters that would end or split a request line or a header.
bool HasControlOrSpace(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return c <= ' ' || c == 127; });
}

std::string Encode(std::string_view text, std::string_view kept) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string encoded;
  for (unsigned char c : text) {
    if (std::isalnum(c) || kept.find(c) != std::string_view::npos) {
      encoded += static_cast<char>(c);
    } else {
      encoded += {'%', kHex[c >> 4], kHex[c & 15]};
    }
  }
  return encoded;
}

}  // namespace

std::string Url::Origin() const {
  std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return (tls ? "https://" : "http://") + name + ":" + port;
}

Result<Url> ParseUrl(std::string_view text) {
  Url url;
  std::string_view rest = text;
  if (rest.rfind("https://", 0) == 0) {
    url.tls = true;
    rest.remove_prefix(8);
  } else if (rest.rfind("http://", 0) == 0) {
    rest.remove_prefix(7);
  } else {
    return InvalidArgument("'{}' is no http:// or https:// URL", text);
  }
  if (HasControlOrSpace(rest)) return InvalidArgument("'{}': spaces in a URL", text);
  size_t slash = std::min(rest.find_first_of("/?#"), rest.size());
  std::string_view authority = rest.substr(0, slash);
  rest.remove_prefix(slash);
  rest = rest.substr(0, rest.find('#'));
  url.target = rest.empty() || rest[0] != '/' ? "/" + std::string(rest) : std::string(rest);

  if (authority.find('@') != std::string_view::npos) {
    return InvalidArgument("'{}': user names in a URL are not supported", text);
  }
  size_t colon = authority.rfind(':');
  if (!authority.empty() && authority[0] == '[') {
    size_t end = authority.find(']');
    if (end == std::string_view::npos) return InvalidArgument("'{}': no ']' in the host", text);
    url.host = authority.substr(1, end - 1);
    colon = end + 1 < authority.size() ? end + 1 : std::string_view::npos;
    if (colon != std::string_view::npos && authority[colon] != ':') {
      return InvalidArgument("'{}': no port after ']'", text);
    }
  } else {
    url.host = authority.substr(0, colon);
  }
  url.port = url.tls ? "443" : "80";
  if (colon != std::string_view::npos) url.port = authority.substr(colon + 1);
  std::transform(url.host.begin(), url.host.end(), url.host.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (url.host.empty()) return InvalidArgument("'{}': no host", text);
  if (!IsPort(url.port)) return InvalidArgument("'{}': '{}' is no port", text, url.port);
  return url;
}

Result<Url> ResolveUrl(const Url& base, std::string_view location) {
  if (location.find("://") != std::string_view::npos) return ParseUrl(location);
  if (location.rfind("//", 0) == 0) {
    return ParseUrl((base.tls ? "https:" : "http:") + std::string(location));
  }
  std::string path(location);
  if (path.empty() || path[0] != '/') {  // beside the base's last path segment
    std::string folder = base.target.substr(0, base.target.find('?'));
    path = folder.substr(0, folder.rfind('/') + 1) + path;
  }
  return ParseUrl(base.Origin() + path);
}

std::string EncodePath(std::string_view path) { return Encode(path, "-._~/"); }
std::string EncodeSegment(std::string_view segment) { return Encode(segment, "-._~"); }

}  // namespace lserve
