// Digests of files as the Hugging Face Hub states them. One object, one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace lserve {

class Checksum {
 public:
  enum class Kind {
    kSha256,   // of the bytes (large files)
    kGitBlob,  // SHA-1 of "blob SIZE\0" and the bytes (small files)
  };
  // `size`: bytes of the whole file; only kGitBlob depends on it.
  Checksum(Kind kind, int64_t size);
  ~Checksum();

  void Add(std::string_view bytes);
  // Lower-case hexadecimal. Call once, after the last Add.
  std::string Finish();

 private:
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

}  // namespace lserve
