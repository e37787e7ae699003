#include "tests/server/test_client.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

namespace lserve {

std::vector<std::string> TestResponse::events() const {
  std::vector<std::string> out;
  size_t begin = 0;
  while (true) {
    const size_t end = body.find("\n\n", begin);
    if (end == std::string::npos) return out;
    const std::string frame = body.substr(begin, end - begin);
    if (frame.rfind("data: ", 0) == 0) out.push_back(frame.substr(6));
    begin = end + 2;
  }
}

std::string TestResponse::error() const {
  const Json j = json();
  return j.is_object() && j.contains("error") ? j["error"].value("message", "") : "";
}

std::string TestResponse::param() const {
  const Json j = json();
  if (!j.is_object() || !j.contains("error") || !j["error"]["param"].is_string()) return "";
  return j["error"]["param"].get<std::string>();
}

TestClient::TestClient(int port) {
  fd_ = socket(AF_INET, SOCK_STREAM, 0);
  timeval patience{10, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
}

TestClient::~TestClient() { Close(); }

void TestClient::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void TestClient::CloseSending() { shutdown(fd_, SHUT_WR); }

void TestClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;  // the peer has closed: Read shows what it said
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

bool TestClient::More() {
  char bytes[16384];
  const ssize_t got = recv(fd_, bytes, sizeof(bytes), 0);
  if (got <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(got));
  return true;
}

bool TestClient::ReadUntil(std::string_view text) {
  while (buffer_.find(text) == std::string::npos) {
    if (!More()) return false;
  }
  return true;
}

bool TestClient::WaitForClose() {
  char bytes[16384];
  while (true) {
    const ssize_t got = recv(fd_, bytes, sizeof(bytes), 0);
    if (got == 0 || (got < 0 && errno == ECONNRESET)) return true;
    if (got < 0) return false;
  }
}

TestResponse TestClient::Read(bool head) {
  TestResponse response;
  if (!ReadUntil("\r\n\r\n")) return response;
  const size_t end = buffer_.find("\r\n\r\n");
  const std::string top = buffer_.substr(0, end + 2);
  buffer_.erase(0, end + 4);
  response.status = std::stoi(top.substr(9, 3));
  for (size_t at = top.find("\r\n") + 2; at < top.size();) {
    const size_t stop = top.find("\r\n", at);
    const size_t colon = top.find(": ", at);
    std::string name = top.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    response.headers[name] = top.substr(colon + 2, stop - colon - 2);
    at = stop + 2;
  }
  if (head || response.status == 100 || response.status == 204) return response;
  if (response.headers.count("content-length") > 0) {
    const size_t length = std::stoul(response.headers["content-length"]);
    while (buffer_.size() < length) {
      if (!More()) return response;
    }
    response.body = buffer_.substr(0, length);
    buffer_.erase(0, length);
    return response;
  }
  if (response.headers["transfer-encoding"] != "chunked") {
    while (More()) {
    }
    response.body = std::move(buffer_);
    return response;
  }
  while (true) {
    if (!ReadUntil("\r\n")) return response;
    const size_t line = buffer_.find("\r\n");
    const size_t length = std::stoul(buffer_.substr(0, line), nullptr, 16);
    while (buffer_.size() < line + 2 + length + 2) {
      if (!More()) return response;
    }
    response.body += buffer_.substr(line + 2, length);
    buffer_.erase(0, line + 2 + length + 2);
    if (length == 0) return response;
  }
}

std::string RequestText(const std::string& method, const std::string& path, const std::string& body,
                        const std::string& headers) {
  std::string text = method + " " + path + " HTTP/1.1\r\nHost: test\r\n" + headers;
  if (!body.empty()) {
    if (headers.find("Content-Type") == std::string::npos)
      text += "Content-Type: application/json\r\n";
    text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  }
  return text + "\r\n" + body;
}

TestResponse TestClient::Get(const std::string& path, const std::string& headers) {
  Send(RequestText("GET", path, "", headers));
  return Read();
}

TestResponse TestClient::Post(const std::string& path, const std::string& body,
                              const std::string& headers) {
  Send(RequestText("POST", path, body, headers));
  return Read();
}

TestServer::TestServer(ServerOptions options, FakeEngine::Settings settings)
    : engine(std::move(settings)) {
  options.port = 0;
  options.log_requests = false;
  auto started = Server::Start(std::move(options), &engine);
  EXPECT_TRUE(started.ok()) << started.status().ToString();
  server = std::move(*started);
}

TestResponse TestServer::Get(const std::string& path, const std::string& headers) {
  return TestClient(port()).Get(path, headers);
}

TestResponse TestServer::Post(const std::string& path, const Json& body) {
  return TestClient(port()).Post(path, body);
}

TestResponse TestServer::PostText(const std::string& path, const std::string& body,
                                  const std::string& headers) {
  return TestClient(port()).Post(path, body, headers);
}

Json ChatBody(const std::string& content, Json more) {
  Json body = {{"messages", Json::array({{{"role", "user"}, {"content", content}}})}};
  body.update(more);
  return body;
}

Json PromptBody(const std::string& prompt, Json more) {
  Json body = {{"prompt", prompt}};
  body.update(more);
  return body;
}

}  // namespace lserve
