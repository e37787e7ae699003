#include "text/tokenizer_regex.h"

#include <string>

#include "text/utf8.h"

namespace lserve::text {
namespace {

constexpr size_t kMaxPattern = 64 << 10;
constexpr uint32_t kMatchLimit = 10'000'000;

// Unicode's White_Space. PCRE2's \s has U+180E besides.
constexpr char kSpaces[] =
    R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f})"
    R"(\x{205f}\x{3000})";
// Its complement, for use inside a class; without the surrogates, which no text has.
constexpr char kNotSpaces[] =
    R"(\x00-\x08\x0e-\x1f\x21-\x84\x86-\x9f\xa1-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{d7ff}\x{e000}-\x{10ffff})";

Result<std::string> Translate(const std::string& pattern) {
  const auto refuse = [&](const char* what) {
    return Unsupported("regular expression \"{}\": {} has another meaning here", pattern, what);
  };
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out += in_class ? kSpaces : std::string("[") + kSpaces + "]";
      } else if (escaped == 'S') {
        out += in_class ? kNotSpaces : std::string("[^") + kSpaces + "]";
      } else if (std::string_view("wWbBhHvVRXKGQEyYkg").find(escaped) != std::string_view::npos) {
        return refuse((std::string("\\") + escaped).c_str());
      } else {
        out += c;
        out += escaped;
      }
      continue;
    }
    if (in_class) {
      if (c == ']') in_class = false;
      if (c == '[') return refuse("[ inside a class");
      if (c == '&' && i + 1 < pattern.size() && pattern[i + 1] == '&') return refuse("&&");
    } else if (c == '[') {
      in_class = true;
      out += c;
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') out += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']')
        return refuse("a class that begins with ]");
      continue;
    } else if (c == '(' && i + 1 < pattern.size() && pattern[i + 1] == '*') {
      return refuse("(*");
    }
    out += c;
  }
  return out;
}

}  // namespace

RegexScratch::RegexScratch()
    : match_(pcre2_match_data_create(1, nullptr)),
      stack_(pcre2_jit_stack_create(32 << 10, 4 << 20, nullptr)),
      context_(pcre2_match_context_create(nullptr)) {
  CHECK(match_ && stack_ && context_);
  pcre2_set_match_limit(context_.get(), kMatchLimit);
  pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
}

Result<Regex> Regex::Compile(const std::string& pattern) {
  if (pattern.size() > kMaxPattern) {
    return Unsupported("regular expression of {} bytes: the limit is {}", pattern.size(),
                       kMaxPattern);
  }
  if (!IsValidUtf8(pattern)) return InvalidArgument("regular expression is not valid UTF-8");
  Result<std::string> translated = Translate(pattern);
  if (!translated.ok()) return translated.status();
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    char message[256] = "";
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
    return Unsupported("regular expression \"{}\": {}", pattern, message);
  }
  // Without a JIT for this machine the interpreter gives the same matches.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return Regex(code);
}

bool Regex::Find(std::string_view text, size_t from, RegexScratch* scratch, size_t* begin,
                 size_t* end) const {
  const int count =
      pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                  PCRE2_NO_UTF_CHECK, scratch->match_.get(), scratch->context_.get());
  if (count < 0) return false;
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch->match_.get());
  *begin = offsets[0];
  *end = offsets[1];
  // A \K that was reached through a look-around could turn the match around.
  return *begin <= *end && *begin >= from;
}

}  // namespace lserve::text
