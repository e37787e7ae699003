// Chat templates: what a server sees of them. That the text equals jinja2's is the business of
// chat_template_parity.py; here are the answers a reader can check by eye, and the errors.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace lserve {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::time_t kNow = 1753108332;  // 2025-07-21 14:32:12 UTC

Result<std::string> Render(const std::string& source, const Json& context = Json::object()) {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(context, kNow);
}

std::string Text(const std::string& source, const Json& context = Json::object()) {
  const Result<std::string> text = Render(source, context);
  return text.ok() ? *text : "ERROR " + text.status().message();
}

std::string Error(const std::string& source, Code code, const Json& context = Json::object()) {
  const Result<std::string> text = Render(source, context);
  if (text.ok()) return "no error, but: " + *text;
  EXPECT_EQ(text.status().code(), code) << text.status().message();
  return text.status().message();
}

Json Message(const char* role, const char* content) {
  return {{"role", role}, {"content", content}};
}

TEST(ChatTemplate, ChatMl) {
  const std::string source =
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
      "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
      "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
      "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  Json context = {{"messages", {Message("user", "Grüß dich"), Message("assistant", "Hi")}},
                  {"add_generation_prompt", false}};
  EXPECT_EQ(Text(source, context),
            "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nGrüß dich<|im_end|>\n"
            "<|im_start|>assistant\nHi<|im_end|>\n");
  context["messages"] = {Message("system", "S"), Message("user", "U")};
  context["add_generation_prompt"] = true;
  EXPECT_EQ(Text(source, context),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplate, Llama3) {
  const std::string source =
      "{% set loop_messages = messages %}{% for message in loop_messages %}"
      "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ "
      "message['content'] | trim + '<|eot_id|>' %}"
      "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
      "{{ content }}{% endfor %}"
      "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}";
  const Json context = {{"messages", {Message("user", "  Hi \n")}},
                        {"bos_token", "<|begin_of_text|>"}};
  EXPECT_EQ(Text(source, context),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(ChatTemplate, UserTextIsNeverCode) {
  EXPECT_EQ(Text("{{ x }}", {{"x", "{{ 1 }}{% if %}{# \n"}}), "{{ 1 }}{% if %}{# \n");
}

TEST(ChatTemplate, ContextKeepsTypesAndOrder) {
  const Json context = Json::parse(R"({"d": {"z": 1, "a": [1.0, null, true, -5, "é"]}})");
  EXPECT_EQ(Text("{{ d }}|{{ d | tojson }}", context),
            "{'z': 1, 'a': [1.0, None, True, -5, 'é']}|"
            "{\"z\": 1, \"a\": [1.0, null, true, -5, \"é\"]}");
}

TEST(ChatTemplate, InvalidUtf8IsReplaced) {
  EXPECT_EQ(Text("a\xFF{{ x }}", {{"x", "b\xC3"}}),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD");
}

TEST(ChatTemplate, Now) { EXPECT_EQ(Text("{{ strftime_now('%d %b %Y') }}"), "21 Jul 2025"); }

TEST(ChatTemplate, RaiseExceptionComesBackUnchanged) {
  EXPECT_EQ(Error("{{ raise_exception('Roles must alternate!') }}", Code::kInvalidArgument),
            "Roles must alternate!");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_EQ(Error("a\n\n{{ m.x.y }}", Code::kInvalidArgument, {{"m", Json::object()}}),
            "chat template, line 3: 'dict' has no attribute 'x'");
  EXPECT_EQ(Error("a\r\nb\r\n{% if x %}", Code::kInvalidArgument),
            "chat template, line 3: the template ends before 'endif'");
  EXPECT_EQ(Error("{% set x = [\n1,\n2 3] %}", Code::kInvalidArgument),
            "chat template, line 3: expected ',', got '3'");
  EXPECT_EQ(Error("\n{{ 'a' | nope }}", Code::kInvalidArgument),
            "chat template, line 2: no filter named 'nope'");
  EXPECT_EQ(Error("{% macro m() %}\n{{ 1 / 0 }}{% endmacro %}\n{{ m() }}", Code::kInvalidArgument),
            "chat template, line 2: division by zero");
}

TEST(ChatTemplate, UnsupportedIsSaid) {
  EXPECT_EQ(Error("{% include 'x' %}", Code::kUnsupported),
            "chat template, line 1: the tag 'include' is not supported");
  EXPECT_EQ(Error("{{ 9223372036854775807 + 1 }}", Code::kUnsupported),
            "chat template, line 1: an integer does not fit into 64 bits");
  EXPECT_EQ(Text("{{ x }}", {{"x", 18446744073709551615u}}), "1.8446744073709552e+19");
}

TEST(ChatTemplate, ContextMustBeAnObject) {
  EXPECT_EQ(Error("x", Code::kInvalidArgument, Json::array()),
            "a template's context must be a JSON object");
}

TEST(ChatTemplate, ExtremeIntegers) {
  const std::string min = "(-9223372036854775807 - 1)";
  EXPECT_EQ(Text("{{ " + min + " // 3 }} {{ " + min + " % -1 }} {{ " + min + " | float }}"),
            "-3074457345618258603 0 -9.223372036854776e+18");
  for (const char* expression : {" // -1", " * -1", " - 1", " | abs"})
    Error("{{ " + min + expression + " }}", Code::kUnsupported);
  Error("{{ -" + min + " }}", Code::kUnsupported);
  EXPECT_EQ(Text("{{ '%d' % " + min + " }} {{ 'abc'[" + min + ":9223372036854775807] }} " +
                 "{{ 'abc'[::" + min + "] }} {{ 'abc'[9223372036854775807] }}|"),
            "-9223372036854775808 abc c |");
}

TEST(ChatTemplate, OneTemplateManyThreads) {
  auto parsed = ChatTemplate::Parse(
      "{% set ns = namespace(n=0) %}{% for i in range(100) %}{% set ns.n = ns.n + i %}{% endfor %}"
      "{{ x }}{{ ns.n }}{{ ['a', 'b'] | join('-') }}");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::thread> threads;
  std::vector<int> good(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const auto text = (*parsed)->Render({{"x", t}}, kNow);
        good[t] += text.ok() && *text == std::to_string(t) + "4950a-b";
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(good, std::vector<int>(4, 50));
}

}  // namespace
}  // namespace lserve
