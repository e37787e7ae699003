// A plain HTTP client over a blocking socket, for tests: it can also send what no client should.
// One thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/json.h"
#include "server/server.h"
#include "tests/server/fake_engine.h"

namespace lserve {

struct TestResponse {
  int status = 0;                              // 0: the connection ended without an answer
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunks joined

  Json json() const { return Json::parse(body, nullptr, false); }
  // The data of every event of a stream.
  std::vector<std::string> events() const;
  std::string error() const;  // error.message
  std::string param() const;  // error.param
};

class TestClient {
 public:
  explicit TestClient(int port);
  ~TestClient();
  TestClient(const TestClient&) = delete;

  void Send(std::string_view bytes);
  // Reads one answer; bytes after it stay for the next. `head`: an answer to HEAD, without a body.
  TestResponse Read(bool head = false);
  // Reads until `text` has come. False: the connection ended before.
  bool ReadUntil(std::string_view text);
  // True once the peer has closed; reads and drops what comes before.
  bool WaitForClose();
  void Close();
  void CloseSending();  // the half that it sends on

  TestResponse Get(const std::string& path, const std::string& headers = "");
  TestResponse Post(const std::string& path, const std::string& body,
                    const std::string& headers = "");
  TestResponse Post(const std::string& path, const Json& body) { return Post(path, Dump(body)); }

 private:
  bool More();  // reads once; false: end
  int fd_ = -1;
  std::string buffer_;
};

// The bytes of a request.
std::string RequestText(const std::string& method, const std::string& path, const std::string& body,
                        const std::string& headers = "");

// A server on a free port with a fake engine. Options that tests rarely care for are quiet.
struct TestServer {
  explicit TestServer(ServerOptions options = {}, FakeEngine::Settings settings = {});
  TestResponse Get(const std::string& path, const std::string& headers = "");
  TestResponse Post(const std::string& path, const Json& body);
  TestResponse PostText(const std::string& path, const std::string& body,
                        const std::string& headers = "");
  int port() const { return server->port(); }

  FakeEngine engine;
  std::unique_ptr<Server> server;
};

Json ChatBody(const std::string& content, Json more = Json::object());
Json PromptBody(const std::string& prompt, Json more = Json::object());

inline constexpr char kChat[] = "/v1/chat/completions";
inline constexpr char kCompletions[] = "/v1/completions";
// The fake engine's answer.
inline const std::string kAnswer = FakeEngine::Settings().answer;

}  // namespace lserve
