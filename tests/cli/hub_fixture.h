// Starts tests/cli/hub_server.py for as long as an object lives, and a certificate for its https.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>

namespace lserve {

class HubServer {
 public:
  // With certificate and key files the server speaks https.
  explicit HubServer(const std::string& certificate = "", const std::string& key = "");
  ~HubServer();
  int port() const { return port_; }
  std::string endpoint() const;

 private:
  pid_t process_ = -1;
  int stdin_ = -1;
  int port_ = 0;
  bool tls_ = false;
};

// A folder that is removed with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Writes a self-signed certificate for 127.0.0.1 and its key (PEM).
void MakeCertificate(const std::string& certificate, const std::string& key);

std::string ReadFile(const std::filesystem::path& path);

}  // namespace lserve
