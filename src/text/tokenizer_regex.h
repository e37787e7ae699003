// The regular expressions of tokenizers. They are written for Oniguruma or Rust's regex crate; what
// those mean differently from PCRE2 is translated (white space is Unicode's White_Space), what
// cannot be translated is refused. Immutable; each thread matches with its own RegexScratch.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <string>
#include <string_view>

#include "core/status.h"

namespace lserve::text {

struct Pcre2Deleter {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

// What one thread needs to match any Regex: the place of the match, limits, a stack.
class RegexScratch {
 public:
  RegexScratch();

 private:
  friend class Regex;
  std::unique_ptr<pcre2_match_data, Pcre2Deleter> match_;
  std::unique_ptr<pcre2_jit_stack, Pcre2Deleter> stack_;
  std::unique_ptr<pcre2_match_context, Pcre2Deleter> context_;
};

class Regex {
 public:
  // Errors give the pattern and what is wrong with it.
  static Result<Regex> Compile(const std::string& pattern);

  // The first match that begins at `from` or later. False: there is none, or finding it would take
  // more steps than the limit. REQUIRES: text is valid UTF-8, from is between characters.
  bool Find(std::string_view text, size_t from, RegexScratch* scratch, size_t* begin,
            size_t* end) const;

 private:
  explicit Regex(pcre2_code* code) : code_(code) {}
  std::unique_ptr<pcre2_code, Pcre2Deleter> code_;
};

}  // namespace lserve::text
