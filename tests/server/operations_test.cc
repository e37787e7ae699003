// What operators need: ending a request from outside, and a description of the API.
#include <gtest/gtest.h>

#include "tests/server/test_client.h"

namespace lserve {
namespace {

TestResponse Delete(const TestServer& s, const std::string& path) {
  TestClient client(s.port());
  client.Send(RequestText("DELETE", path, ""));
  return client.Read();
}

TEST(Abort, ByRequestId) {
  TestServer s;
  s.engine.Pause(true);
  TestClient client(s.port());
  client.Send(RequestText("POST", kChat, Dump(ChatBody("hi")), "X-Request-Id: mine\r\n"));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  EXPECT_EQ(Delete(s, "/v1/chat/completions/other").status, 404);
  EXPECT_EQ(Delete(s, "/v1/chat/completions/mine").status, 200);
  const TestResponse response = client.Read();
  EXPECT_EQ(response.status, 499);
  EXPECT_EQ(response.json()["error"]["code"], "aborted");
  EXPECT_TRUE(s.engine.WaitForCancelled(1));
  EXPECT_EQ(Delete(s, "/v1/chat/completions/mine").status, 404) << "it is over";
}

TEST(Abort, OfAStreamByTheIdOfItsAnswer) {
  TestServer s;
  TestClient client(s.port());
  s.engine.Pause(true);
  client.Send(RequestText("POST", kCompletions,
                          Dump(PromptBody("hi", {{"stream", true}, {"max_tokens", 100}})),
                          "X-Request-Id: mine\r\n"));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  std::string id = s.engine.submitted()[0].id;  // "<answer's id>-<choice>"
  id = id.substr(0, id.rfind('-'));
  EXPECT_EQ(Delete(s, "/v1/completions/" + id).status, 200);
  const TestResponse response = client.Read();
  EXPECT_TRUE(response.status == 499 || response.events().back() == "[DONE]") << response.status;
  EXPECT_TRUE(s.engine.WaitForCancelled(1));
}

TEST(Abort, NeedsTheKey) {
  ServerOptions options;
  options.api_keys = {"k"};
  TestServer s(options);
  EXPECT_EQ(Delete(s, "/v1/completions/x").status, 401);
}

TEST(OpenApi, DescribesEveryRoute) {
  TestServer s;
  const TestResponse response = s.Get("/openapi.json");
  ASSERT_EQ(response.status, 200);
  const Json document = response.json();
  EXPECT_EQ(document["openapi"], "3.1.0");
  for (const auto& [path, operations] : document["paths"].items()) {
    for (const auto& [method, operation] : operations.items()) {
      std::string concrete = path;
      if (const size_t brace = concrete.find('{'); brace != std::string::npos)
        concrete.replace(brace, std::string::npos, "x");
      std::string verb = method;
      for (char& c : verb) c = static_cast<char>(std::toupper(c));
      TestClient client(s.port());
      client.Send(RequestText(verb, concrete, verb == "POST" ? "{}" : ""));
      const int status = client.Read().status;
      EXPECT_TRUE(status == 200 || status == 400 || (method == "delete" && status == 404))
          << verb << " " << path << ": " << status;
    }
  }
  for (const char* path : {kChat, kCompletions, "/v1/models", "/metrics", "/health", "/live",
                           "/version", "/tokenize", "/detokenize", "/openapi.json"})
    EXPECT_TRUE(document["paths"].contains(path)) << path;
}

TEST(OpenApi, RefersToWhatIsThere) {
  TestServer s;
  const Json document = s.Get("/openapi.json").json();
  const std::string text = Dump(document), prefix = "#/components/schemas/";
  for (size_t at = 0; (at = text.find(prefix, at)) != std::string::npos; ++at) {
    const size_t begin = at + prefix.size();
    const std::string name = text.substr(begin, text.find('"', begin) - begin);
    EXPECT_TRUE(document["components"]["schemas"].contains(name)) << name;
  }
}

}  // namespace
}  // namespace lserve
