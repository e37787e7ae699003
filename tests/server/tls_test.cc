// The server over TLS, with a certificate made here.
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <filesystem>

#include "tests/server/test_client.h"

namespace lserve {
namespace {

namespace net = boost::asio;

// A key and a self-signed certificate in a directory of their own.
class Certificate {
 public:
  Certificate() {
    static int count = 0;
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 ("lserve-tls-" + std::to_string(getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(directory_);
    EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256");
    X509* x509 = X509_new();
    X509_set_version(x509, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_gmtime_adj(X509_getm_notBefore(x509), -60);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, key);
    X509_NAME* name = X509_get_subject_name(x509);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
    X509_set_issuer_name(x509, name);
    X509_sign(x509, key, EVP_sha256());
    FILE* file = fopen(key_path().c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    fclose(file);
    file = fopen(cert_path().c_str(), "w");
    PEM_write_X509(file, x509);
    fclose(file);
    X509_free(x509);
    EVP_PKEY_free(key);
  }
  ~Certificate() { std::filesystem::remove_all(directory_); }
  std::string cert_path() const { return (directory_ / "cert.pem").string(); }
  std::string key_path() const { return (directory_ / "key.pem").string(); }
  ServerOptions Options() const {
    ServerOptions options;
    options.tls_cert = cert_path();
    options.tls_key = key_path();
    return options;
  }

 private:
  std::filesystem::path directory_;
};

// Sends `request` over TLS and returns all that comes until the server closes; `clean`: it said so.
std::string Exchange(int port, const std::string& request, const Certificate& certificate,
                     bool* clean) {
  net::io_context io;
  net::ssl::context context(net::ssl::context::tls_client);
  context.load_verify_file(certificate.cert_path());
  context.set_verify_mode(net::ssl::verify_peer);
  net::ssl::stream<net::ip::tcp::socket> stream(io, context);
  stream.lowest_layer().connect(
      {net::ip::address_v4::loopback(), static_cast<unsigned short>(port)});
  stream.handshake(net::ssl::stream_base::client);
  net::write(stream, net::buffer(request));
  std::string answer;
  boost::system::error_code ec;
  net::read(stream, net::dynamic_buffer(answer), ec);
  *clean = ec == net::error::eof;
  stream.shutdown(ec);
  return answer;
}

TEST(Tls, AnswersAndStreams) {
  Certificate certificate;
  TestServer s(certificate.Options());
  bool clean = false;
  const std::string health = Exchange(
      s.port(), RequestText("GET", "/health", "", "Connection: close\r\n"), certificate, &clean);
  EXPECT_EQ(health.rfind("HTTP/1.1 200", 0), 0u) << health;
  EXPECT_TRUE(clean) << "closed without saying so";
  const std::string two =
      RequestText("GET", "/live", "") +
      RequestText("POST", kChat, Dump(ChatBody("hi", {{"stream", true}})), "Connection: close\r\n");
  const std::string stream = Exchange(s.port(), two, certificate, &clean);
  EXPECT_NE(stream.find("data: [DONE]"), std::string::npos) << stream;
  EXPECT_TRUE(clean);
}

TEST(Tls, LargeBodies) {
  Certificate certificate;
  TestServer s(certificate.Options());
  const std::string text(300'000, 'x');
  bool clean = false;
  const std::string answer = Exchange(
      s.port(), RequestText("POST", "/tokenize", Dump({{"prompt", text}}), "Connection: close\r\n"),
      certificate, &clean);
  EXPECT_NE(answer.find("\"count\":300001"), std::string::npos) << answer.substr(0, 300);
}

TEST(Tls, PlainHttpIsNotAnswered) {
  Certificate certificate;
  TestServer s(certificate.Options());
  TestClient client(s.port());
  client.Send(RequestText("GET", "/health", ""));
  EXPECT_TRUE(client.WaitForClose());
}

TEST(Tls, SilentClientsAreDropped) {
  Certificate certificate;
  ServerOptions options = certificate.Options();
  options.header_time = std::chrono::milliseconds(50);
  TestServer s(options);
  TestClient client(s.port());
  EXPECT_TRUE(client.WaitForClose());
}

TEST(Tls, ErrorsNameFlagsAndFiles) {
  Certificate one, two;
  const auto error = [](const std::string& cert, const std::string& key) {
    ServerOptions options;
    options.port = 0;
    options.tls_cert = cert;
    options.tls_key = key;
    return Server::Start(options, nullptr).status().message();
  };
  EXPECT_EQ(error(one.cert_path(), one.key_path()), "");
  EXPECT_NE(error(one.cert_path(), "").find("--tls-key"), std::string::npos);
  EXPECT_NE(error("/nowhere", one.key_path()).find("--tls-cert /nowhere"), std::string::npos);
  EXPECT_NE(error(one.cert_path(), two.key_path()).find("--tls-key " + two.key_path()),
            std::string::npos);
  EXPECT_NE(error(one.key_path(), one.key_path()).find("--tls-cert"), std::string::npos);
}

}  // namespace
}  // namespace lserve
