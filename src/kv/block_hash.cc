#include "kv/block_hash.h"

#include <openssl/evp.h>

#include <memory>

#include "core/check.h"
#include "plan/attn_plan.h"

namespace lserve {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    CHECK(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  Sha256& Add(const void* data, size_t size) {
    CHECK(EVP_DigestUpdate(context_.get(), data, size) == 1);
    return *this;
  }
  // The digest of what was added; begins anew.
  BlockHash Finish() {
    BlockHash out;
    CHECK(EVP_DigestFinal_ex(context_.get(), out.data(), nullptr) == 1);
    CHECK(EVP_DigestInit_ex(context_.get(), nullptr, nullptr) == 1);
    return out;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

// Making a context costs more than hashing a block.
Sha256& Hasher() {
  thread_local Sha256 hasher;
  return hasher;
}

}  // namespace

BlockHash ChainSeed(std::span<const std::string> parts) {
  Sha256& sha = Hasher();
  for (const std::string& part : parts) {
    const uint64_t size = part.size();
    sha.Add(&size, sizeof(size)).Add(part.data(), part.size());
  }
  return sha.Finish();
}

BlockHash NextBlock(const BlockHash& before, std::span<const int32_t> tokens, int32_t origin) {
  CHECK(tokens.size() == kBlockTokens);
  return Hasher()
      .Add(before.data(), before.size())
      .Add(&origin, sizeof(origin))
      .Add(tokens.data(), tokens.size_bytes())
      .Finish();
}

}  // namespace lserve
