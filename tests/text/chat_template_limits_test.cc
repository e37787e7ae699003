// Hostile templates: each ends soon with an error that says which limit, whatever it tries.
#include <gtest/gtest.h>

#include <ctime>
#include <string>
#include <utility>

#include "text/chat_template.h"

namespace lserve {
namespace {

using Json = nlohmann::ordered_json;

std::string Repeat(const std::string& s, int n) {
  std::string out;
  out.reserve(s.size() * static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) out += s;
  return out;
}

// Limits that keep the tests quick; what they count is the same.
TemplateLimits Small() {
  TemplateLimits limits;
  limits.steps = 200'000;
  limits.work = 100 << 20;
  limits.output_bytes = 1 << 20;
  limits.memory_bytes = 16 << 20;
  return limits;
}

Status StatusOf(const std::string& source, const TemplateLimits& limits = Small()) {
  auto parsed = ChatTemplate::Parse(source, limits);
  if (!parsed.ok()) return parsed.status();
  auto text = (*parsed)->Render({{"s", std::string(100'000, 'x')}}, 0);
  return text.ok() ? Ok() : text.status();
}

Code CodeOf(const std::string& source, const TemplateLimits& limits = Small()) {
  return StatusOf(source, limits).code();
}

constexpr Code kLimit = Code::kResourceExhausted;

TEST(ChatTemplateLimits, NestingInTheSource) {
  constexpr int kDeep = 50'000;
  constexpr std::pair<const char*, const char*> kBrackets[] = {
      {"(", ")"},    {"[", "]"},   {"{1:", "}"},  {"not ", ""},     {"-", ""},
      {"x[", "]"},   {"f(", ")"},  {"x|f(", ")"}, {"x is f(", ")"}, {"1 if 1 else ", ""},
      {"x[1:", "]"}, {"f(*", ")"}, {"f(a=", ")"}};
  for (const auto& [open, close] : kBrackets)
    EXPECT_EQ(CodeOf("{{ " + Repeat(open, kDeep) + "1" + Repeat(close, kDeep) + " }}"), kLimit)
        << open;
  for (const char* tag : {"{% if 1 %}", "{% for i in x %}", "{% macro m() %}", "{% set x %}",
                          "{% filter upper %}", "{% call f() %}", "{% with %}", "{% generation %}"})
    EXPECT_EQ(CodeOf(Repeat(tag, 50'000)), kLimit) << tag;
  EXPECT_EQ(CodeOf("{% set " + Repeat("(", kDeep) + "x" + Repeat(")", kDeep) + " = 1 %}"), kLimit);
}

TEST(ChatTemplateLimits, LongChainsAreNoDepth) {
  constexpr int kLong = 20'000;
  EXPECT_EQ(CodeOf("{{ 0" + Repeat(" + 1", kLong) + " }}"), Code::kOk);
  EXPECT_EQ(CodeOf("{{ 0" + Repeat(" ~ 1", kLong) + " }}"), Code::kOk);
  EXPECT_EQ(CodeOf("{{ 0" + Repeat(" or 0", kLong) + " }}"), Code::kOk);
  EXPECT_EQ(CodeOf("{{ 1" + Repeat(" and 1", kLong) + " }}"), Code::kOk);
  EXPECT_EQ(CodeOf("{{ 1" + Repeat(" == 1", kLong) + " }}"), Code::kOk);
  EXPECT_EQ(CodeOf("{{ 1" + Repeat(" * 1", kLong) + " }}"), Code::kOk);
  EXPECT_EQ(CodeOf("{% if 0 %}" + Repeat("{% elif 0 %}", kLong) + "{% endif %}"), Code::kOk);
  EXPECT_EQ(CodeOf("{{ [" + Repeat("1,", kLong) + "] | length }}"), Code::kOk);
  EXPECT_EQ(CodeOf("{{ s" + Repeat("|trim", kLong) + " }}"), kLimit);
  EXPECT_EQ(CodeOf("{{ s" + Repeat(".x", kLong) + " }}"), kLimit);
  EXPECT_EQ(CodeOf("{{ s" + Repeat("()", kLong) + " }}"), kLimit);
  EXPECT_EQ(CodeOf("{{ s" + Repeat(" if 1", kLong) + " }}"), kLimit);
  EXPECT_EQ(CodeOf("{% filter upper" + Repeat("|upper", kLong) + " %}{% endfilter %}"), kLimit);
}

TEST(ChatTemplateLimits, Source) {
  TemplateLimits limits;
  EXPECT_EQ(CodeOf(std::string(limits.source_bytes, 'x'), limits), Code::kOk);
  EXPECT_EQ(CodeOf(std::string(limits.source_bytes + 1, 'x'), limits), kLimit);
}

// CVE-2025-62426: what a template may cost.
TEST(ChatTemplateLimits, Steps) {
  const Status s = StatusOf(
      "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}"
      "{% endfor %}{% endfor %}{% endfor %}");
  EXPECT_EQ(s.message(), "chat template, line 1: the template needs more than 200000 steps");
}

TEST(ChatTemplateLimits, Recursion) {
  for (const char* source :
       {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
        "{% macro m(a=m()) %}{% endmacro %}{{ m() }}",
        "{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}",
        "{% macro m() %}{% for i in [1] %}{% if i %}{{ [[m()]] }}{% endif %}{% endfor %}{% "
        "endmacro %}{{ m() }}"})
    EXPECT_EQ(CodeOf(source), kLimit) << source;
}

TEST(ChatTemplateLimits, OneHugeValue) {
  for (const char* expression : {"'x' * 10**9",
                                 "10**9 * 'x'",
                                 "[0] * 10**9",
                                 "(0,) * 10**15",
                                 "'x'.center(10**9)",
                                 "'x'.ljust(10**9)",
                                 "'x'.zfill(10**9)",
                                 "'x' | center(10**9)",
                                 "'a\\nb' | indent(10**9)",
                                 "'a\\tb'.expandtabs(10**9)",
                                 "[1] | tojson(indent=10**9)",
                                 "'%1000000000d' % 1",
                                 "'%*d' % (10**9, 1)",
                                 "'%.1000000000f' % 1.5",
                                 "'{:1000000000}'.format(1)",
                                 "'{:.1000000000f}'.format(1.5)",
                                 "'%99999999999999999999d' % 1",
                                 "[1] | batch(10**9, 0) | list",
                                 "[1] | slice(10**9) | list",
                                 "s.replace('', s)",
                                 "s.replace('x', s)",
                                 "s | replace('x', s)",
                                 "s.join(s)",
                                 "s | join(s)",
                                 "s ~ s * 10 ~ s * 10",
                                 "s | indent(s * 10, true)",
                                 "s.split('x') | map('replace', '', s * 11) | list",
                                 "(s | list) * 10",
                                 "[s | list, s | list] | tojson(indent=100)"})
    EXPECT_EQ(CodeOf("{{ " + std::string(expression) + " }}"), kLimit) << expression;
  EXPECT_EQ(CodeOf("{{ range(10**9) }}"), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf("{{ 10**10**10 }}"), Code::kUnsupported);
  EXPECT_EQ(CodeOf("{{ 1.5 | round(10**9) }}"), Code::kOk);
}

TEST(ChatTemplateLimits, Doubling) {
  const std::string loop =
      "{% set ns = namespace(v=V) %}{% for i in range(200) %}{% set ns.v = E %}{% endfor %}";
  auto source = [&](const std::string& start, const std::string& next) {
    std::string s = loop;
    s.replace(s.find("V)"), 1, start);
    s.replace(s.find("E %"), 1, next);
    return s;
  };
  EXPECT_EQ(CodeOf(source("'x'", "ns.v + ns.v")), kLimit);
  EXPECT_EQ(CodeOf(source("'x'", "ns.v ~ ns.v")), kLimit);
  EXPECT_EQ(CodeOf(source("[1]", "ns.v + ns.v")), kLimit);
  EXPECT_EQ(CodeOf(source("'x'", "'%s%s' % (ns.v, ns.v)")), kLimit);
  EXPECT_EQ(CodeOf(source("'x'", "'{0}{0}'.format(ns.v)")), kLimit);
}

TEST(ChatTemplateLimits, ManyValuesAtOnce) {
  EXPECT_EQ(CodeOf("{% set ns = namespace(v=[]) %}{% for i in range(1000) %}"
                   "{% set ns.v = ns.v + [s ~ i] %}{% endfor %}"),
            kLimit);
}

TEST(ChatTemplateLimits, DeepValues) {
  const std::string nest =
      "{% set ns = namespace(v=1, w=1) %}{% for i in range(N) %}{% set ns.v = E %}{% set ns.w = W "
      "%}{% endfor %}";
  auto source = [&](const std::string& n, const std::string& v, const std::string& w,
                    const std::string& end) {
    std::string s = nest;
    s.replace(s.find("N)"), 1, n);
    s.replace(s.find("E %"), 1, v);
    s.replace(s.find("W %"), 1, w);
    return s + end;
  };
  for (const char* wrap : {"[ns.v]", "(ns.v,)", "{1: ns.v}", "[[ns.v]] | map('first')"})
    EXPECT_EQ(CodeOf(source("99999", wrap, "1", "")), kLimit) << wrap;
  // Values that share their parts: small in memory, exponential when walked.
  EXPECT_EQ(CodeOf(source("100", "[ns.v, ns.v]", "1", "{{ ns.v }}")), kLimit);
  EXPECT_EQ(CodeOf(source("100", "[ns.v, ns.v]", "1", "{{ ns.v | tojson }}")), kLimit);
  EXPECT_EQ(CodeOf(source("100", "[ns.v, ns.v]", "[ns.w, ns.w]", "{{ ns.v == ns.w }}")), kLimit);
  EXPECT_EQ(CodeOf(source("100", "[ns.v, ns.v]", "[ns.w, ns.w]", "{{ ns.v < ns.w }}")), kLimit);
  EXPECT_EQ(CodeOf(source("100", "(ns.v, ns.v)", "1", "{{ {ns.v: 1} }}")), kLimit);
}

TEST(ChatTemplateLimits, Cycles) {
  EXPECT_EQ(CodeOf("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}"), kLimit);
  EXPECT_EQ(CodeOf("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns == ns.a[0] }}"),
            Code::kOk);
  EXPECT_EQ(CodeOf("{% macro m() %}{% endmacro %}{% set ns = namespace(m=m) %}{% for i in [1] %}"
                   "{% set ns.l = loop %}{{ loop.changed(loop) }}{% endfor %}{{ ns.l.length }}"),
            Code::kOk);
}

TEST(ChatTemplateLimits, QuadraticWork) {
  EXPECT_EQ(CodeOf("{% for i in range(99999) %}{{ s[i] }}{% endfor %}"), kLimit);
  EXPECT_EQ(CodeOf("{% for i in range(99999) %}{% if 'y' in s %}{% endif %}{% endfor %}"), kLimit);
  for (const char* search : {"t in s", "s.find(t)", "s.rfind(t)", "s.split(t)", "s.rsplit(t)",
                             "s.replace(t, '')", "s.count(t)", "s.partition(t)"})
    EXPECT_EQ(CodeOf("{% set t = s[:50000] ~ 'y' ~ s[:9] %}{% for i in range(9999) %}{% set x = " +
                     std::string(search) + " %}{% endfor %}"),
              kLimit)
        << search;
  EXPECT_EQ(CodeOf("{% for i in range(9999) %}{% set x = s | upper | lower %}{% endfor %}"),
            kLimit);
  EXPECT_EQ(CodeOf("{% for i in range(99999) %}{% set x = s.strip(s) %}{% endfor %}"), kLimit);
}

TEST(ChatTemplateLimits, StrftimeNow) {
  EXPECT_EQ(CodeOf("{{ strftime_now('%A' * 10000) }}"), kLimit);
  EXPECT_EQ(CodeOf("{{ strftime_now('%EY %Oy %') }}"), Code::kOk);
}

TEST(ChatTemplateLimits, DeepContext) {
  Json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = Json::array({deep});
  auto parsed = ChatTemplate::Parse("{{ deep }}");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ((*parsed)->Render({{"deep", deep}}, 0).status().code(), kLimit);
}

// The worst that the default limits allow stays within seconds.
TEST(ChatTemplateLimits, DefaultsEndInTime) {
  const std::clock_t start = std::clock();  // of this process, however busy the machine is
  EXPECT_EQ(CodeOf("{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor "
                   "%}{% endfor %}",
                   TemplateLimits()),
            kLimit);
  EXPECT_EQ(CodeOf("{% set t = s * 100 %}{% for a in range(99999) %}{% if 'xy' in t %}{% endif "
                   "%}{% endfor %}",
                   TemplateLimits()),
            kLimit);
  EXPECT_LT((std::clock() - start) / CLOCKS_PER_SEC, 30);
}

// A long conversation is no attack.
TEST(ChatTemplateLimits, LongConversationFits) {
  auto parsed = ChatTemplate::Parse(
      "{% for m in messages %}{% if m.role == 'user' or (m.role == 'assistant' and m.content) %}"
      "{{ '<|im_start|>' + m.role + '\n' + (m.content | trim) + '<|im_end|>\n' }}{% endif %}"
      "{% endfor %}");
  ASSERT_TRUE(parsed.ok());
  Json messages = Json::array();
  for (int i = 0; i < 4000; ++i)
    messages.push_back(
        {{"role", i % 2 ? "assistant" : "user"}, {"content", std::string(1000, 'a')}});
  auto text = (*parsed)->Render({{"messages", messages}}, 0);
  ASSERT_TRUE(text.ok()) << text.status().message();
  EXPECT_GT(text->size(), 4'000'000u);
}

}  // namespace
}  // namespace lserve
