// How values become text: Python's str() and repr(), and json.dumps().
#pragma once

#include <string>

#include "text/jinja_value.h"

namespace lserve::jinja {

std::string ToString(const Value& v);
std::string Repr(const Value& v);
std::string FloatRepr(double f);
// Python's repr of a string; `ascii`: as ascii() does.
std::string StringRepr(std::string_view s, bool ascii = false);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool pretty = false;  // new lines; `indent` before each level
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
std::string ToJson(const Value& v, const JsonStyle& style);

}  // namespace lserve::jinja
