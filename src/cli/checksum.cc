#include "cli/checksum.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include "core/check.h"

namespace lserve {

Checksum::Checksum(Kind kind, int64_t size) : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
  CHECK(context_ != nullptr);
  const EVP_MD* digest = kind == Kind::kSha256 ? EVP_sha256() : EVP_sha1();
  CHECK(EVP_DigestInit_ex(context_.get(), digest, nullptr) == 1);
  if (kind == Kind::kGitBlob) Add(fmt::format("blob {}", size) + '\0');
}

Checksum::~Checksum() = default;

void Checksum::Add(std::string_view bytes) {
  CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
}

std::string Checksum::Finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  CHECK(EVP_DigestFinal_ex(context_.get(), digest, &length) == 1);
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

}  // namespace lserve
