#include "tests/cli/hub_fixture.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "core/check.h"

namespace lserve {

HubServer::HubServer(const std::string& certificate, const std::string& key)
    : tls_(!certificate.empty()) {
  int in[2], out[2];
  CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
  process_ = fork();
  CHECK(process_ >= 0);
  if (process_ == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    const char* script = LSERVE_SOURCE_DIR "/tests/cli/hub_server.py";
    if (tls_) {
      execlp("python3", "python3", script, certificate.c_str(), key.c_str(), nullptr);
    } else {
      execlp("python3", "python3", script, nullptr);
    }
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  stdin_ = in[1];
  FILE* lines = fdopen(out[0], "r");
  CHECK(lines != nullptr);
  CHECK(std::fscanf(lines, "%d", &port_) == 1);
  std::fclose(lines);
}

HubServer::~HubServer() {
  close(stdin_);  // the server ends when its input does
  waitpid(process_, nullptr, 0);
}

std::string HubServer::endpoint() const {
  return std::string(tls_ ? "https" : "http") + "://127.0.0.1:" + std::to_string(port_);
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "lserve-pull-XXXXXX").string();
  CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

void MakeCertificate(const std::string& certificate, const std::string& key) {
  EVP_PKEY* pair = EVP_RSA_gen(2048);
  CHECK(pair != nullptr);
  X509* x509 = X509_new();
  X509_set_version(x509, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
  X509_gmtime_adj(X509_getm_notBefore(x509), -3600);
  X509_gmtime_adj(X509_getm_notAfter(x509), 86400);
  X509_set_pubkey(x509, pair);
  X509_NAME* name = X509_get_subject_name(x509);
  const auto* common = reinterpret_cast<const unsigned char*>("lserve test");
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, common, -1, -1, 0);
  X509_set_issuer_name(x509, name);
  X509_EXTENSION* names =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
  X509_add_ext(x509, names, -1);
  X509_EXTENSION_free(names);
  CHECK(X509_sign(x509, pair, EVP_sha256()) > 0);
  FILE* file = std::fopen(certificate.c_str(), "w");
  CHECK(file != nullptr && PEM_write_X509(file, x509) == 1);
  std::fclose(file);
  file = std::fopen(key.c_str(), "w");
  CHECK(file != nullptr &&
        PEM_write_PrivateKey(file, pair, nullptr, nullptr, 0, nullptr, nullptr) == 1);
  std::fclose(file);
  X509_free(x509);
  EVP_PKEY_free(pair);
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace lserve
