// Filters that make text.
#include <algorithm>
#include <unordered_map>

#include "text/jinja_filters.h"
#include "text/jinja_format.h"
#include "text/jinja_ops.h"
#include "text/jinja_print.h"
#include "text/jinja_text.h"
#include "text/utf8.h"

namespace lserve::jinja {
namespace {

Value Str(std::string s) { return Value::String(std::move(s)); }

const std::string& StringOf(const char* name, const Value& v) {
  if (v.is_undefined()) FailUndefined(v);
  if (!v.is_string()) Fail("{}() needs a string, not {}", name, TypeName(v));
  return v.str();
}

Value UpperFilter(const Value& v, const Args& args) {
  Params("upper", args, {});
  return Str(Upper(ToString(v)));
}
Value LowerFilter(const Value& v, const Args& args) {
  Params("lower", args, {});
  return Str(Lower(ToString(v)));
}
Value CapitalizeFilter(const Value& v, const Args& args) {
  Params("capitalize", args, {});
  return Str(Capitalize(ToString(v)));
}

// Jinja2's title: words begin after white space and after - ( { [ <, unlike str.title().
Value TitleFilter(const Value& v, const Args& args) {
  Params("title", args, {});
  const std::string s = ToString(v);
  auto is_break = [](char32_t c) {
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || IsSpace(c);
  };
  Text out;
  size_t pos = 0;
  while (pos < s.size()) {
    const bool breaks = is_break(text::DecodeUtf8(s, pos).code);
    size_t end = pos;
    while (end < s.size()) {
      const text::Utf8Char c = text::DecodeUtf8(s, end);
      if (is_break(c.code) != breaks) break;
      end += c.length;
    }
    const std::string_view word = std::string_view(s).substr(pos, end - pos);
    if (breaks) {
      out.Append(word);
    } else {
      const size_t first = CharLength(word, 0);
      out.Append(Upper(word.substr(0, first)));
      out.Append(Lower(word.substr(first)));
    }
    pos = end;
  }
  return Str(out.Take());
}

Value TrimFilter(const Value& v, const Args& args) {
  const Params p("trim", args, {"chars"});
  const std::string s = ToString(v);
  if (!p.IsGivenAndNotNone(0)) return Str(std::string(Strip(s, kBoth)));
  return Str(std::string(Strip(s, kBoth, StringOf("trim", p[0]))));
}

Value ReplaceFilter(const Value& v, const Args& args) {
  const Params p("replace", args, {"old", "new", "count"}, 2);
  const int64_t count = p.IsGivenAndNotNone(2) ? p.IntOr(2, -1) : -1;
  return Str(Replace(ToString(v), ToString(p[0]), ToString(p[1]), count));
}

Value StringFilter(const Value& v, const Args& args) {
  Params("string", args, {});
  return v.is_string() ? v : Str(ToString(v));
}

Value EscapeFilter(const Value& v, const Args& args) {
  Params("escape", args, {});
  Text out;
  for (char c : ToString(v)) {
    switch (c) {
      case '&':
        out.Append("&amp;");
        break;
      case '<':
        out.Append("&lt;");
        break;
      case '>':
        out.Append("&gt;");
        break;
      case '\'':
        out.Append("&#39;");
        break;
      case '"':
        out.Append("&#34;");
        break;
      default:
        out.Append(c);
    }
  }
  return Str(out.Take());
}

Value IndentFilter(const Value& v, const Args& args) {
  const Params p("indent", args, {"width", "first", "blank"});
  std::string indention;
  if (p.Has(0) && p[0].is_string()) {
    indention = p[0].str();
  } else {
    Text spaces;
    spaces.Fill(static_cast<size_t>(std::max<int64_t>(p.IntOr(0, 4), 0)), " ");
    indention = spaces.Take();
  }
  // With the newline that Jinja2 adds, a last empty line counts as one.
  const std::string s = StringOf("indent", v) + "\n";
  const bool blank = p.TrueOr(2, false);
  Text out;
  if (p.TrueOr(1, false)) out.Append(indention);
  bool first = true;
  for (std::string_view line : SplitLines(s, false)) {
    if (!first) {
      out.Append('\n');
      if (blank || !line.empty()) out.Append(indention);
    }
    first = false;
    out.Append(line);
  }
  return Str(out.Take());
}

Value CenterFilter(const Value& v, const Args& args) {
  const Params p("center", args, {"width"});
  Args center;
  center.pos.push_back(Value::Int(p.IntOr(0, 80)));
  return CallMethod(Str(ToString(v)), "center", center);
}

Value FormatFilter(const Value& v, const Args& args) {
  if (!args.pos.empty() && !args.kw.empty())
    Fail("format() cannot take positional and keyword arguments at the same time");
  if (args.kw.empty()) return Str(PercentFormat(ToString(v), Value::Tuple(args.pos)));
  DictBuilder dict;
  for (const auto& [name, value] : args.kw) dict.Set(Str(name), value);
  return Str(PercentFormat(ToString(v), dict.Take()));
}

Value JoinFilter(const Value& v, const Args& args) {
  const Params p("join", args, {"d", "attribute"});
  const std::string separator = p.Has(0) ? ToString(p[0]) : "";
  Values items = Iterate(v);
  if (p.IsGivenAndNotNone(1)) {
    Args map;
    map.kw.emplace_back("attribute", p[1]);
    items = Iterate(CallFilter("map", Value::List(std::move(items)), map));
  }
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.Append(separator);
    out.Append(ToString(items[i]));
  }
  return Str(out.Take());
}

// As transformers defines it: json.dumps without escaping for HTML.
Value ToJsonFilter(const Value& v, const Args& args) {
  const Params p("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = p.TrueOr(0, false);
  style.sort_keys = p.TrueOr(3, false);
  if (p.IsGivenAndNotNone(1)) {
    style.pretty = true;
    style.item_separator = ",";
    if (p[1].is_string()) {
      style.indent = p[1].str();
    } else {
      Text spaces;
      spaces.Fill(static_cast<size_t>(std::max<int64_t>(p.IntOr(1, 0), 0)), " ");
      style.indent = spaces.Take();
    }
  }
  if (p.IsGivenAndNotNone(2)) {
    const Values pair = Iterate(p[2]);
    if (pair.size() != 2) Fail("tojson() needs two separators");
    style.item_separator = StringOf("tojson", pair[0]);
    style.key_separator = StringOf("tojson", pair[1]);
  }
  return Str(ToJson(v, style));
}

Value TruncateFilter(const Value& v, const Args& args) {
  const Params p("truncate", args, {"length", "killwords", "end", "leeway"});
  const std::string end = p.Has(2) ? StringOf("truncate", p[2]) : "...";
  const int64_t length = p.IntOr(0, 255);
  const int64_t leeway = p.IsGivenAndNotNone(3) ? p.IntOr(3, 5) : 5;
  const auto end_length = static_cast<int64_t>(CodePoints(end));
  if (length < end_length || leeway < 0) Fail("truncate(): length or leeway is too small");
  if (Length(v) <= length + leeway) return v;
  const std::string& s = StringOf("truncate", v);
  std::string_view kept = SubString(s, 0, length - end_length);
  if (!p.TrueOr(1, false)) kept = kept.substr(0, std::min(kept.rfind(' '), kept.size()));
  return Str(std::string(kept) + end);
}

Value WordCountFilter(const Value& v, const Args& args) {
  Params("wordcount", args, {});
  const std::string s = ToString(v);
  int64_t words = 0;
  bool inside = false;
  for (size_t pos = 0; pos < s.size();) {
    const size_t n = CharLength(s, pos);
    const std::string_view c = std::string_view(s).substr(pos, n);
    const bool word = c == "_" || AllAre(c, CharClass::kAlnum);
    words += word && !inside;
    inside = word;
    pos += n;
  }
  return Value::Int(words);
}

std::string Quote(const Value& v, std::string_view safe) {
  Text out;
  for (char c : ToString(v)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       safe.find(c) != std::string_view::npos;
    if (plain)
      out.Append(c);
    else
      out.Append(fmt::format("%{:02X}", static_cast<unsigned char>(c)));
  }
  return out.Take();
}

Value UrlEncodeFilter(const Value& v, const Args& args) {
  Params("urlencode", args, {});
  if (v.is_string() || !IsIterable(v)) return Str(Quote(v, "_.-~/"));
  Text out;
  const Values pairs = v.Is(Kind::kDict) ? Iterate(CallMethod(v, "items", {})) : Iterate(v);
  for (const Value& pair : pairs) {
    const Values two = Iterate(pair);
    if (two.size() != 2) Fail("urlencode() needs pairs");
    if (out.size() > 0) out.Append('&');
    auto plus = [](const Value& part) { return Replace(Quote(part, "_.-~"), "%20", "+", -1); };
    out.Append(plus(two[0]) + "=" + plus(two[1]));
  }
  return Str(out.Take());
}

}  // namespace

FilterFunction FindTextFilter(const std::string& name) {
  static const std::unordered_map<std::string, FilterFunction> kFilters = {
      {"upper", UpperFilter},
      {"lower", LowerFilter},
      {"capitalize", CapitalizeFilter},
      {"title", TitleFilter},
      {"trim", TrimFilter},
      {"replace", ReplaceFilter},
      {"string", StringFilter},
      {"safe", StringFilter},
      {"escape", EscapeFilter},
      {"e", EscapeFilter},
      {"forceescape", EscapeFilter},
      {"indent", IndentFilter},
      {"center", CenterFilter},
      {"format", FormatFilter},
      {"join", JoinFilter},
      {"tojson", ToJsonFilter},
      {"truncate", TruncateFilter},
      {"wordcount", WordCountFilter},
      {"urlencode", UrlEncodeFilter}};
  auto it = kFilters.find(name);
  return it == kFilters.end() ? nullptr : it->second;
}

}  // namespace lserve::jinja
