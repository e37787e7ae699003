#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <strings.h>

namespace lserve {

ApiKeys::Hash ApiKeys::HashOf(std::string_view key) {
  Hash hash;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash.data());
  return hash;
}

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) hashes_.push_back(HashOf(key));
}

bool ApiKeys::Allows(std::string_view authorization) const {
  if (hashes_.empty()) return true;
  constexpr std::string_view kScheme = "Bearer ";
  if (authorization.size() < kScheme.size() ||
      strncasecmp(authorization.data(), kScheme.data(), kScheme.size()) != 0) {
    return false;
  }
  const Hash hash = HashOf(authorization.substr(kScheme.size()));
  bool found = false;
  for (const Hash& known : hashes_) {
    found |= CRYPTO_memcmp(hash.data(), known.data(), hash.size()) == 0;  // all of them, always
  }
  return found;
}

}  // namespace lserve
