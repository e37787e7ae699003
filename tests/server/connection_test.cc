// Limits, hostile clients, clients that leave, and shutting down. Nothing here sleeps: each test
// waits for what it expects.
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/server/test_client.h"

namespace lserve {
namespace {

using std::chrono::milliseconds;

std::string Deep(int depth) {
  return std::string(static_cast<size_t>(depth), '[') +
         std::string(static_cast<size_t>(depth), ']');
}

// Headers without bound: CVE-2025-48956 (vLLM).
TEST(Limits, HeaderBytes) {
  TestServer s;
  const TestResponse r = s.Get("/health", "X-Big: " + std::string(20000, 'x') + "\r\n");
  EXPECT_EQ(r.status, 431);
  EXPECT_NE(r.error().find("16384"), std::string::npos);
  EXPECT_EQ(s.Get("/" + std::string(20000, 'x')).status, 431);
}

TEST(Limits, HeaderCount) {
  TestServer s;
  std::string headers;
  for (int i = 0; i < 101; ++i) headers += "X-" + std::to_string(i) + ": 1\r\n";
  EXPECT_EQ(s.Get("/health", headers).status, 431);
}

TEST(Limits, BodyBytes) {
  ServerOptions options;
  options.body_bytes = 1000;
  TestServer s(options);
  const TestResponse r = s.Post(kChat, ChatBody(std::string(2000, 'x')));
  EXPECT_EQ(r.status, 413);
  EXPECT_NE(r.error().find("1000"), std::string::npos);
  TestClient chunked(s.port());
  chunked.Send("POST " + std::string(kChat) +
               " HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" +
               std::string(2048, 'x') + "\r\n0\r\n\r\n");
  EXPECT_EQ(chunked.Read().status, 413);
  EXPECT_EQ(s.Post(kChat, ChatBody("small")).status, 200);
}

// llama.cpp PR #27434: nesting of 3000 ended the process.
TEST(Limits, Json) {
  ServerOptions options;
  options.request.json = {64, 10, 100};
  TestServer s(options);
  TestClient client(s.port());
  for (const int depth : {65, 3000, 500000}) {
    const TestResponse r = client.Post(kChat, "{\"messages\": " + Deep(depth) + "}");
    EXPECT_EQ(r.status, 400) << depth;
    EXPECT_NE(r.error().find("64"), std::string::npos) << r.body;
  }
  EXPECT_NE(client.Post("/tokenize", "{\"prompt\": \"x\", \"y\": " + Deep(60) + "}").status, 400);
  std::string keys = "{\"prompt\": \"x\"";
  for (int i = 0; i < 10; ++i) keys += ",\"k" + std::to_string(i) + "\": 1";
  EXPECT_NE(client.Post("/tokenize", keys + "}").error().find("10 keys"), std::string::npos);
  const Json many = Json(std::vector<int>(200, 1));
  EXPECT_NE(client.Post("/detokenize", {{"tokens", many}}).error().find("100 values"),
            std::string::npos);
}

// Answers without bound: CVE-2026-34756 (n, vLLM); of prompt_logprobs local-inference-lab/vllm#264
// took 62 GiB.
TEST(Limits, Requests) {
  ServerOptions options;
  options.request.n = 2;
  options.request.prompts = 2;
  options.request.messages = 2;
  options.request.prompt_tokens = 40;
  options.request.stop_bytes = 4;
  options.request.stop_token_ids = 2;
  options.request.logit_bias = 1;
  options.request.top_logprobs = 3;
  options.request.prompt_logprobs = 20;
  TestServer s(options);
  TestClient client(s.port());
  const auto check = [&](const Json& body, const char* field, const char* limit) {
    const TestResponse r = client.Post(kCompletions, body);
    EXPECT_EQ(r.status, 400) << body;
    EXPECT_EQ(r.param(), field) << r.body;
    EXPECT_NE(r.error().find(limit), std::string::npos) << r.body;
  };
  check(PromptBody("x", {{"n", 3}}), "n", "2");
  check({{"prompt", {"a", "b", "c"}}}, "prompt", "2");
  check(PromptBody(std::string(40, 'x')), "prompt", "40");
  check(PromptBody("x", {{"stop", "12345"}}), "stop", "4");
  check(PromptBody("x", {{"stop_token_ids", {1, 2, 3}}}), "stop_token_ids", "2");
  check(PromptBody("x", {{"logit_bias", {{"1", 1}, {"2", 1}}}}), "logit_bias", "1");
  check(PromptBody("x", {{"logprobs", 4}}), "logprobs", "3");
  check(PromptBody("0123456789", {{"prompt_logprobs", 3}}), "prompt_logprobs", "20");
  const Json message = {{"role", "user"}, {"content", "x"}};
  EXPECT_EQ(client.Post(kChat, {{"messages", Json::array({message, message, message})}}).param(),
            "messages");
}

// A template that goes on for ever: CVE-2025-62426 (vLLM).
TEST(Limits, Template) {
  ServerOptions options;
  options.template_limits.steps = 100;
  FakeEngine::Settings settings;
  settings.chat_template = "{% for i in range(100000) %}x{% endfor %}";
  TestServer s(options, settings);
  EXPECT_EQ(s.Post(kChat, ChatBody("x")).status, 400);
  EXPECT_EQ(s.Get("/health").status, 200);
}

TEST(Limits, Queue) {
  FakeEngine::Settings settings;
  settings.max_queue = 2;
  TestServer s({}, settings);
  s.engine.Pause(true);
  TestClient waiting(s.port());
  waiting.Send(RequestText("POST", kChat, Dump(ChatBody("x"))));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  const TestResponse full = s.Post(kChat, ChatBody("x", {{"n", 2}}));
  EXPECT_EQ(full.status, 429);
  EXPECT_EQ(full.headers.at("retry-after"), "1");
  EXPECT_TRUE(s.engine.WaitForCancelled(1));  // the half that had been taken
  s.engine.Pause(false);
  EXPECT_EQ(waiting.Read().status, 200);
}

TEST(Limits, QueueTokens) {
  ServerOptions options;
  options.queue_tokens = 100;
  TestServer s(options);
  s.engine.Pause(true);
  TestClient waiting(s.port());
  waiting.Send(RequestText("POST", kCompletions, Dump(PromptBody(std::string(80, 'x')))));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  EXPECT_EQ(s.Post(kCompletions, PromptBody(std::string(80, 'x'))).status, 429);
  s.engine.Pause(false);
  EXPECT_EQ(waiting.Read().status, 200);
  EXPECT_EQ(s.Post(kCompletions, PromptBody(std::string(80, 'x'))).status, 200);
}

TEST(Limits, Connections) {
  ServerOptions options;
  options.connections = 1;
  TestServer s(options);
  s.engine.Pause(true);
  TestClient first(s.port());
  first.Send(RequestText("POST", kChat, Dump(ChatBody("x"))));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  TestClient second(s.port());
  const TestResponse r = second.Read();
  EXPECT_EQ(r.status, 503);
  EXPECT_EQ(r.json()["error"]["code"], "too_many_connections");
  s.engine.Pause(false);
  EXPECT_EQ(first.Read().status, 200);
  TestClient third(s.port());
  EXPECT_EQ(third.Get("/health").status, 200) << "it takes the place of one that is idle";
  EXPECT_TRUE(first.WaitForClose());
}

// Many times more connections than the limit, none of which sends a whole request: whoever does is
// answered, the others are closed when room is needed, the longest waiting first.
TEST(Limits, IdleConnectionsKeepNobodyOut) {
  ServerOptions options;
  options.connections = 20;
  TestServer s(options);
  s.engine.Pause(true);
  TestClient busy(s.port());
  busy.Send(RequestText("POST", kChat, Dump(ChatBody("x"))));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  const std::string whole = RequestText("POST", kCompletions, Dump(PromptBody("x")));
  std::vector<std::unique_ptr<TestClient>> waiting;
  for (size_t i = 0; i < 300; ++i) {
    waiting.push_back(std::make_unique<TestClient>(s.port()));
    // Nothing; a part of the headers; a part of the body.
    const size_t parts[] = {0, 25, whole.size() - 5};
    waiting.back()->Send(std::string_view(whole).substr(0, parts[i % 3]));
    if (i % 50 != 49) continue;
    TestClient real(s.port());
    EXPECT_EQ(real.Get("/health").status, 200) << i;
    EXPECT_EQ(real.Get("/metrics").status, 200);
  }
  EXPECT_TRUE(waiting.front()->WaitForClose());
  s.engine.Pause(false);
  EXPECT_EQ(busy.Read().status, 200) << "one that is being answered is never closed for others";
  EXPECT_EQ(s.Post(kChat, ChatBody("x")).status, 200);
}

// A client that closes its sending half has left, as far as anybody can tell: its place is free.
TEST(Connection, HalfClosedIsClosed) {
  TestServer s;
  TestClient idle(s.port());
  idle.CloseSending();
  EXPECT_TRUE(idle.WaitForClose());
  TestClient header(s.port());
  header.Send("GET /health HTT");
  header.CloseSending();
  EXPECT_TRUE(header.WaitForClose());
  s.engine.Pause(true);
  TestClient stream(s.port());
  stream.Send(RequestText("POST", kChat, Dump(ChatBody("x", {{"stream", true}}))));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  stream.CloseSending();
  EXPECT_TRUE(s.engine.WaitForCancelled(1));
  EXPECT_TRUE(stream.WaitForClose());
}

TEST(Limits, SlowClients) {
  ServerOptions options;
  options.header_time = options.body_time = options.idle_time = milliseconds(50);
  TestServer s(options);
  TestClient idle(s.port());
  EXPECT_TRUE(idle.WaitForClose());
  TestClient header(s.port());
  header.Send("GET /health HTT");
  EXPECT_EQ(header.Read().status, 408);
  TestClient body(s.port());
  body.Send("POST /tokenize HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{");
  EXPECT_EQ(body.Read().status, 408);
  EXPECT_TRUE(body.WaitForClose());
}

TEST(Limits, RequestTime) {
  ServerOptions options;
  options.request_time = milliseconds(50);
  options.keepalive_time = milliseconds(5);
  TestServer s(options);
  s.engine.Pause(true);
  EXPECT_EQ(s.Post(kChat, ChatBody("x")).status, 504);
  EXPECT_TRUE(s.engine.WaitForCancelled(1));
  const TestResponse stream = s.Post(kChat, ChatBody("x", {{"stream", true}}));
  EXPECT_EQ(stream.status, 200);  // a comment had begun it
  EXPECT_NE(stream.events()[0].find("\"error\""), std::string::npos);
  EXPECT_EQ(stream.events().back(), "[DONE]");
  EXPECT_TRUE(s.engine.WaitForCancelled(2));
}

TEST(Connection, MalformedRequests) {
  TestServer s;
  for (const char* bytes :
       {"nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET\x01/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nNo colon\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length : 2\r\n\r\n{}",
        "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\n",
        // Where a proxy and a server disagree about the end of a request, one smuggles another in.
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"}) {
    TestClient client(s.port());
    client.Send(bytes);
    EXPECT_EQ(client.Read().status, 400) << bytes;
    EXPECT_TRUE(client.WaitForClose());
  }
  EXPECT_EQ(s.Get("/health").status, 200);
}

// Nothing of a body in a coding that is not undone may be read as JSON or as the next request.
TEST(Connection, UnknownCodingsEndTheConnection) {
  TestServer s;
  const struct {
    const char* headers;
    int status;
    const char* named;
  } cases[] = {
      {"Transfer-Encoding: gzip\r\n", 501, "gzip"},
      {"Transfer-Encoding: gzip, chunked\r\n", 501, "gzip, chunked"},
      {"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", 400, "Transfer-Encoding"},
      {"Content-Encoding: gzip\r\nContent-Length: 4\r\n", 415, "gzip"},
  };
  for (const auto& c : cases) {
    TestClient client(s.port());
    client.Send(std::string("POST /tokenize HTTP/1.1\r\nHost: t\r\n") + c.headers +
                "\r\nGET /health HTTP/1.1\r\nHost: t\r\n\r\n");
    const TestResponse r = client.Read();
    EXPECT_EQ(r.status, c.status) << c.headers;
    EXPECT_NE(r.error().find(c.named), std::string::npos) << r.body;
    EXPECT_FALSE(client.ReadUntil("\"status\"")) << "answered what stood in the body";
  }
  EXPECT_EQ(s.PostText("/tokenize", R"({"prompt": "x"})", "Content-Encoding: identity\r\n").status,
            200);
}

TEST(Connection, PipelinedRequestsAreAnsweredInOrder) {
  TestServer s;
  TestClient client(s.port());
  client.Send(RequestText("POST", kCompletions, Dump(PromptBody("x", {{"max_tokens", 5}}))) +
              RequestText("GET", "/version", "") +
              RequestText("POST", kCompletions,
                          Dump(PromptBody("x", {{"max_tokens", 1}, {"stream", true}}))) +
              RequestText("GET", "/live", ""));
  EXPECT_EQ(client.Read().json()["usage"]["completion_tokens"], 5);
  EXPECT_TRUE(client.Read().json().contains("version"));
  EXPECT_EQ(client.Read().events().back(), "[DONE]");
  EXPECT_EQ(client.Read().json()["status"], "ok");
}

// Long prompts were tokenised on the thread that everybody's bytes pass through: vllm#1026.
TEST(Connection, TokenisingHoldsUpNobodyElse) {
  std::promise<void> begun, go_on;
  FakeEngine::Settings settings;
  settings.on_encode = [&, once = std::make_shared<std::once_flag>(),
                        wait = go_on.get_future().share()] {
    std::call_once(*once, [&] {
      begun.set_value();
      wait.wait();
    });
  };
  ServerOptions options;
  options.network_threads = 1;
  TestServer s(options, settings);
  TestClient slow(s.port());
  slow.Send(RequestText("POST", kCompletions, Dump(PromptBody("x"))));
  begun.get_future().wait();
  EXPECT_EQ(s.Get("/health").status, 200);
  EXPECT_EQ(s.Get("/metrics").status, 200);
  go_on.set_value();
  EXPECT_EQ(slow.Read().status, 200);
}

TEST(Connection, PipelinedWhileTheFirstIsWorkedOn) {
  TestServer s;
  s.engine.Pause(true);
  TestClient client(s.port());
  client.Send(RequestText("POST", kCompletions, Dump(PromptBody("x"))));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  client.Send(RequestText("GET", "/version", ""));
  s.engine.Pause(false);
  EXPECT_TRUE(client.Read().json().contains("choices"));
  EXPECT_TRUE(client.Read().json().contains("version"));
}

TEST(Connection, KeepAliveAndClose) {
  TestServer s;
  TestClient client(s.port());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(client.Get("/health").status, 200);
  EXPECT_EQ(client.Get("/health", "Connection: close\r\n").headers.at("connection"), "close");
  EXPECT_TRUE(client.WaitForClose());
  TestClient old(s.port());
  old.Send("POST " + std::string(kCompletions) +
           " HTTP/1.0\r\nContent-Length: 29\r\n\r\n{\"prompt\":\"x\", \"stream\":true}");
  EXPECT_EQ(old.Read().events().back(), "[DONE]");  // no chunks before HTTP/1.1
}

TEST(Connection, ExpectContinue) {
  TestServer s;
  TestClient client(s.port());
  const std::string body = Dump(PromptBody("x"));
  client.Send("POST " + std::string(kCompletions) +
              " HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_EQ(client.Read().status, 100);
  client.Send(body);
  EXPECT_EQ(client.Read().status, 200);
}

// Requests of clients that had left went on: dynamo#14507, vllm#54947.
TEST(Connection, LeavingEndsTheRequest) {
  TestServer s;
  s.engine.Pause(true);
  int count = 0;
  for (const bool stream : {false, true}) {
    TestClient client(s.port());
    client.Send(RequestText("POST", kChat, Dump(ChatBody("x", {{"stream", stream}, {"n", 2}}))));
    count += 2;
    ASSERT_TRUE(s.engine.WaitForSubmitted(count));
    client.Close();  // before the first token
    EXPECT_TRUE(s.engine.WaitForCancelled(count)) << stream;
  }
  EXPECT_TRUE(s.engine.WaitUntilIdle());
  const std::string metrics = s.Get("/metrics").body;
  EXPECT_NE(metrics.find("finished_reason=\"abort\"} 4"), std::string::npos) << metrics;
}

TEST(Connection, LeavingInTheMiddleOfAStream) {
  FakeEngine::Settings settings;
  settings.pause_after = 3;
  TestServer s({}, settings);
  TestClient client(s.port());
  client.Send(RequestText("POST", kChat, Dump(ChatBody("x", {{"stream", true}}))));
  ASSERT_TRUE(client.ReadUntil("\"content\""));
  client.Close();
  EXPECT_TRUE(s.engine.WaitForCancelled(1));
}

TEST(Connection, ClientThatDoesNotReadIsDropped) {
  ServerOptions options;
  options.stream_buffer = 20000;
  FakeEngine::Settings settings;
  settings.max_context = 100'000'000;
  TestServer s(options, settings);
  TestClient client(s.port());
  client.Send(RequestText(
      "POST", kChat,
      Dump(ChatBody("x", {{"stream", true}, {"ignore_eos", true}, {"max_tokens", 50'000'000}}))));
  EXPECT_TRUE(s.engine.WaitForCancelled(1));
}

// Proxies give up on a stream that is silent while a long prompt is read: vllm#47647, vllm#40362.
TEST(Connection, SilentStreamsAreKeptAlive) {
  ServerOptions options;
  options.keepalive_time = milliseconds(5);
  TestServer s(options);
  s.engine.Pause(true);
  TestClient client(s.port());
  client.Send(RequestText("POST", kChat, Dump(ChatBody("x", {{"stream", true}}))));
  EXPECT_TRUE(client.ReadUntil(": keep-alive"));
  s.engine.Pause(false);
  EXPECT_EQ(client.Read().events().back(), "[DONE]");
}

TEST(Shutdown, DrainLetsRequestsEnd) {
  TestServer s;
  s.engine.Pause(true);
  TestClient client(s.port()), idle(s.port());
  ASSERT_EQ(idle.Get("/health").status, 200);
  client.Send(RequestText("POST", kChat, Dump(ChatBody("x"))));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  bool whole = false;
  std::thread drain([&] { whole = s.server->Drain(milliseconds(10'000)); });
  EXPECT_TRUE(idle.WaitForClose());
  s.engine.Pause(false);
  const TestResponse r = client.Read();
  EXPECT_EQ(r.status, 200);
  EXPECT_EQ(r.headers.at("connection"), "close");
  client.Close();
  drain.join();
  EXPECT_TRUE(whole);
}

TEST(Shutdown, DrainAbortsWhatTakesTooLong) {
  TestServer s;
  s.engine.Pause(true);
  TestClient client(s.port());
  client.Send(RequestText("POST", kChat, Dump(ChatBody("x"))));
  ASSERT_TRUE(s.engine.WaitForSubmitted(1));
  EXPECT_FALSE(s.server->Drain(milliseconds(20)));
  EXPECT_TRUE(s.engine.WaitForCancelled(1));
  EXPECT_TRUE(client.WaitForClose());
}

TEST(Shutdown, EngineMayTalkAfterTheServerIsGone) {
  TestServer s;
  s.engine.Pause(true);
  TestClient client(s.port());
  client.Send(RequestText("POST", kChat, Dump(ChatBody("x", {{"n", 4}}))));
  ASSERT_TRUE(s.engine.WaitForSubmitted(4));
  s.server.reset();
  s.engine.Pause(false);
  EXPECT_TRUE(s.engine.WaitUntilIdle());
}

TEST(Startup, Errors) {
  TestServer s;
  ServerOptions options;
  options.port = s.port();
  const auto taken = Server::Start(options, nullptr);
  EXPECT_NE(taken.status().message().find(std::to_string(s.port())), std::string::npos);
  options.port = 0;
  options.chat_template = "{% if %}";
  EXPECT_FALSE(Server::Start(options, nullptr).ok());
  options.chat_template = "";
  options.host = "no.such.host.invalid";
  EXPECT_NE(Server::Start(options, nullptr).status().message().find("--host"), std::string::npos);
}

}  // namespace
}  // namespace lserve
