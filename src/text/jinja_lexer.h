// Template source to tokens, with Jinja2's white space control as transformers sets it: trim_blocks
// and lstrip_blocks on, one newline at the end of the source dropped, all newlines made "\n".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_budget.h"

namespace lserve::jinja {

enum class Tok {
  kData,      // text between tags
  kVarBegin,  // {{
  kVarEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,  // text: the string's value
  kInt,
  kFloat,
  kOp,  // text: the operator
  kEof,
};

struct Token {
  Tok type;
  std::string text;
  int line;
  bool IsName(std::string_view s) const { return type == Tok::kName && text == s; }
  bool IsOp(std::string_view s) const { return type == Tok::kOp && text == s; }
};

// REQUIRES: source is valid UTF-8. Fails by TemplateError.
std::vector<Token> Tokenize(const std::string& source);

}  // namespace lserve::jinja
