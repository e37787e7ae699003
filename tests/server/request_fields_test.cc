// Every field of the wrong type or range, and every field that is not supported, is a 400 that
// names it.
#include <gtest/gtest.h>

#include "tests/server/test_client.h"

namespace lserve {
namespace {

struct Case {
  const char* field;  // as the error names it
  const char* more;   // JSON merged into a good request
};

const Case kBoth[] = {
    {"model", R"({"model": 1})"},
    {"n", R"({"n": 0})"},
    {"n", R"({"n": 17})"},
    {"n", R"({"n": "1"})"},
    {"n", R"({"n": 1.5})"},
    {"n", R"({"n": 99999999999999999999})"},
    {"temperature", R"({"temperature": "hot"})"},
    {"temperature", R"({"temperature": -1})"},
    {"temperature", R"({"temperature": true})"},
    {"top_p", R"({"top_p": 0})"},
    {"top_p", R"({"top_p": 1.1})"},
    {"top_k", R"({"top_k": -2})"},
    {"top_k", R"({"top_k": 1.5})"},
    {"min_p", R"({"min_p": 2})"},
    {"presence_penalty", R"({"presence_penalty": 3})"},
    {"frequency_penalty", R"({"frequency_penalty": "1"})"},
    {"repetition_penalty", R"({"repetition_penalty": 0})"},
    {"seed", R"({"seed": "a"})"},
    {"max_tokens", R"({"max_tokens": -1})"},
    {"max_tokens", R"({"max_tokens": "10"})"},
    {"min_tokens", R"({"min_tokens": -1})"},
    {"min_tokens", R"({"min_tokens": 9, "max_tokens": 8})"},
    {"stop", R"({"stop": 5})"},
    {"stop", R"({"stop": ""})"},
    {"stop[1]", R"({"stop": ["a", 1]})"},
    {"stop",
     R"({"stop": ["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]})"},
    {"stop_token_ids", R"({"stop_token_ids": 3})"},
    {"stop_token_ids[0]", R"({"stop_token_ids": ["a"]})"},
    {"stop_token_ids[0]", R"({"stop_token_ids": [-1]})"},
    {"stop_token_ids", R"({"stop_token_ids": [260]})"},
    {"ignore_eos", R"({"ignore_eos": 1})"},
    {"logit_bias", R"({"logit_bias": []})"},
    {"logit_bias", R"({"logit_bias": {"a": 1}})"},
    {"logit_bias", R"({"logit_bias": {"1": 101}})"},
    {"logit_bias", R"({"logit_bias": {"1": "x"}})"},
    {"logit_bias", R"({"logit_bias": {"260": 1}})"},
    {"prompt_logprobs", R"({"prompt_logprobs": 21})"},
    {"prompt_logprobs", R"({"prompt_logprobs": 1, "stream": true})"},
    {"echo", R"({"echo": "yes"})"},
    {"stream", R"({"stream": "true"})"},
    {"stream_options", R"({"stream_options": {}})"},
    {"stream_options", R"({"stream": true, "stream_options": 1})"},
    {"stream_options.include_usage", R"({"stream": true, "stream_options": {"include_usage": 1}})"},
    {"user", R"({"user": 1})"},
    {"cache_salt", R"({"cache_salt": 1})"},
    {"priority", R"({"priority": "high"})"},
    {"lserve", R"({"lserve": "dense"})"},
    {"lserve.attention", R"({"lserve": {"attention": "sparse"}})"},
    {"lserve.attention", R"({"lserve": {"attention": 1}})"},
    {"lserve.budget", R"({"lserve": {"budget": 0}})"},
    {"lserve.progress", R"({"lserve": {"progress": 1}})"},
    {"tools", R"({"tools": [{"type": "function"}]})"},
    {"tool_choice", R"({"tool_choice": "required"})"},
    {"functions", R"({"functions": [{}]})"},
    {"response_format", R"({"response_format": {"type": "json_object"}})"},
    {"modalities", R"({"modalities": ["text", "audio"]})"},
    {"audio", R"({"audio": {}})"},
    {"best_of", R"({"best_of": 2})"},
    {"suffix", R"({"suffix": "x"})"},
    {"reasoning_effort", R"({"reasoning_effort": "low"})"},
    {"guided_json", R"({"guided_json": {}})"},
    {"chat_template", R"({"chat_template": "x"})"},
    {"skip_special_tokens", R"({"skip_special_tokens": false})"},
};

const Case kChatOnly[] = {
    {"messages", R"({"messages": null})"},
    {"messages", R"({"messages": []})"},
    {"messages", R"({"messages": "hi"})"},
    {"messages[0]", R"({"messages": ["hi"]})"},
    {"messages[0].role", R"({"messages": [{"content": "x"}]})"},
    {"messages[0].role", R"({"messages": [{"role": "king", "content": "x"}]})"},
    {"messages[0].role", R"({"messages": [{"role": "tool", "content": "x"}]})"},
    {"messages[0].content", R"({"messages": [{"role": "user"}]})"},
    {"messages[0].content", R"({"messages": [{"role": "user", "content": 1}]})"},
    {"messages[0].content[0]", R"({"messages": [{"role": "user", "content": ["x"]}]})"},
    {"messages[0].content[0].type",
     R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})"},
    {"messages[0].content[0].text",
     R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})"},
    {"messages[0].name", R"({"messages": [{"role": "user", "content": "x", "name": 1}]})"},
    {"messages[0].tool_calls",
     R"({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]})"},
    {"max_tokens", R"({"max_tokens": 0})"},
    {"max_completion_tokens", R"({"max_completion_tokens": 0})"},
    {"logprobs", R"({"logprobs": 1})"},
    {"top_logprobs", R"({"top_logprobs": 1})"},
    {"top_logprobs", R"({"logprobs": true, "top_logprobs": 21})"},
    {"echo", R"({"echo": true})"},
    {"chat_template_kwargs", R"({"chat_template_kwargs": 1})"},
    {"chat_template_kwargs.messages", R"({"chat_template_kwargs": {"messages": []}})"},
    {"add_generation_prompt", R"({"add_generation_prompt": 1})"},
};

const Case kCompletionOnly[] = {
    {"prompt", R"({"prompt": null})"},
    {"prompt", R"({"prompt": 1})"},
    {"prompt", R"({"prompt": []})"},
    {"prompt", R"({"prompt": {}})"},
    {"prompt[1]", R"({"prompt": [1, "a"]})"},
    {"prompt[1]", R"({"prompt": ["a", 1]})"},
    {"prompt[0]", R"({"prompt": [-1]})"},
    {"prompt[0]", R"({"prompt": [[]]})"},
    {"prompt[0][1]", R"({"prompt": [[1, "a"]]})"},
    {"prompt", R"({"prompt": [260]})"},
    {"logprobs", R"({"logprobs": true})"},
    {"logprobs", R"({"logprobs": 21})"},
};

void Check(TestClient* client, const char* path, const Json& good, const Case& c) {
  Json body = good;
  body.update(Json::parse(c.more));
  const TestResponse response = client->Post(path, body);
  EXPECT_EQ(response.status, 400) << path << " " << c.more << response.body;
  EXPECT_EQ(response.param(), c.field) << path << " " << c.more << response.body;
  EXPECT_FALSE(response.error().empty()) << c.more;
}

TEST(RequestFields, WrongOnesAreNamed) {
  TestServer s;
  TestClient client(s.port());
  for (const Case& c : kBoth) {
    Check(&client, kChat, ChatBody("x"), c);
    Check(&client, kCompletions, PromptBody("x"), c);
  }
  for (const Case& c : kChatOnly) Check(&client, kChat, ChatBody("x"), c);
  for (const Case& c : kCompletionOnly) Check(&client, kCompletions, PromptBody("x"), c);
  EXPECT_TRUE(s.engine.submitted().empty());
}

TEST(RequestFields, HarmlessOnesAreTaken) {
  TestServer s;
  TestClient client(s.port());
  for (const char* more :
       {R"({"tools": [], "tool_choice": "none"})", R"({"tools": null, "tool_choice": "auto"})",
        R"({"response_format": {"type": "text"}})", R"({"modalities": ["text"]})",
        R"({"n": null, "temperature": null, "stop": null, "lserve": null})",
        R"({"n": 2.0, "best_of": 2})",
        R"({"unknown": {"deep": [1, 2]}, "store": false, "metadata": {"a": "b"}, "user": "u"})",
        R"({"seed": -5, "cache_salt": "s", "priority": -1, "parallel_tool_calls": true})",
        R"({"logit_bias": {"5": -100, "6": 100}, "stop_token_ids": [1, 2]})"}) {
    for (const char* path : {kChat, kCompletions}) {
      Json body = path == kChat ? ChatBody("x") : PromptBody("x");
      body.update(Json::parse(more));
      const TestResponse response = client.Post(path, body);
      EXPECT_EQ(response.status, 200) << path << " " << more << response.body;
    }
  }
}

TEST(RequestFields, NotJson) {
  TestServer s;
  TestClient client(s.port());
  for (const std::string body : {"{", "[1,]", "nul", "{\"a\":1,\"a\":2}", "{} x", "\"\\ud800\"",
                                 "\"\xff\"", "{\"n\": 1e999}", "{\"prompt\" \"x\"}"}) {
    for (const char* path : {kChat, kCompletions, "/tokenize", "/detokenize"}) {
      const TestResponse response = client.Post(path, body);
      EXPECT_EQ(response.status, 400) << body;
      EXPECT_EQ(response.json()["error"]["code"], "invalid_json") << body << response.body;
    }
  }
  for (const std::string body : {"[]", "1", "null", "\"x\""}) {
    EXPECT_EQ(client.Post(kChat, body).json()["error"]["code"], "invalid_json") << body;
  }
  client.Send("POST /tokenize HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n");
  EXPECT_EQ(client.Read().status, 400);
  EXPECT_EQ(client.Post(kChat, "a=b", "Content-Type: text/plain\r\n").status, 415);
}

}  // namespace
}  // namespace lserve
