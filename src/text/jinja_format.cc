#include "text/jinja_format.h"

#include <algorithm>
#include <cmath>

#include "text/jinja_ops.h"
#include "text/jinja_print.h"
#include "text/jinja_text.h"

namespace lserve::jinja {
namespace {

constexpr int64_t kMaxPrecision = 400;

// A format's fields, of "%-5.2f" as of "{:<5.2f}".
struct Spec {
  std::string fill = " ";
  char align = 0;  // '<', '>', '^', '='
  char sign = '-';
  bool alternate = false, comma = false, underscore = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 0;
};

// Puts `text` into the field; `sign_length` characters stay in front of '=' padding.
std::string Pad(const std::string& text, const Spec& spec, char default_align, size_t sign_length) {
  const int64_t pad = spec.width - static_cast<int64_t>(CodePoints(text));
  if (pad <= 0) return text;
  const char align = spec.align ? spec.align : default_align;
  const int64_t left = align == '<' ? 0 : align == '^' ? pad / 2 : pad;
  Text out;
  if (align == '=') {
    out.Append(text.substr(0, sign_length));
    out.Fill(static_cast<size_t>(pad), spec.fill);
    out.Append(text.substr(sign_length));
    return out.Take();
  }
  out.Fill(static_cast<size_t>(left), spec.fill);
  out.Append(text);
  out.Fill(static_cast<size_t>(pad - left), spec.fill);
  return out.Take();
}

std::string Group(const std::string& digits, char separator) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += separator;
    out += digits[i];
  }
  return out;
}

std::string SignOf(bool negative, char style) {
  if (negative) return "-";
  return style == '+' || style == ' ' ? std::string(1, style) : "";
}

std::string FormatInt(int64_t value, const Spec& spec) {
  const bool negative = value < 0;
  const uint64_t magnitude =
      negative ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  std::string digits, prefix = SignOf(negative, spec.sign);
  switch (spec.type) {
    case 'x':
      digits = fmt::format("{:x}", magnitude);
      break;
    case 'X':
      digits = fmt::format("{:X}", magnitude);
      break;
    case 'o':
      digits = fmt::format("{:o}", magnitude);
      break;
    case 'b':
      digits = fmt::format("{:b}", magnitude);
      break;
    default:
      digits = fmt::format("{}", magnitude);
      break;
  }
  if (spec.precision > static_cast<int64_t>(digits.size()))
    digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
  if (spec.comma) digits = Group(digits, ',');
  if (spec.underscore) digits = Group(digits, '_');
  if (spec.alternate &&
      (spec.type == 'x' || spec.type == 'X' || spec.type == 'o' || spec.type == 'b'))
    prefix += std::string("0") + spec.type;
  return Pad(prefix + digits, spec, '>', prefix.size());
}

std::string FormatFloat(double value, const Spec& spec) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  const double magnitude = std::fabs(value);
  const int precision = static_cast<int>(spec.precision < 0 ? 6 : spec.precision);
  const std::string prefix = SignOf(negative, spec.sign);
  std::string digits;
  if (std::isnan(value) || std::isinf(value)) {
    digits = std::isnan(value) ? "nan" : "inf";
  } else {
    switch (spec.type) {
      case 'e':
        digits = fmt::format("{:.{}e}", magnitude, precision);
        break;
      case 'E':
        digits = fmt::format("{:.{}E}", magnitude, precision);
        break;
      case 'g':
        digits = fmt::format("{:.{}g}", magnitude, std::max(precision, 1));
        break;
      case 'G':
        digits = fmt::format("{:.{}G}", magnitude, std::max(precision, 1));
        break;
      case '%':
        digits = fmt::format("{:.{}f}%", magnitude * 100, precision);
        break;
      case 0:
        digits = spec.precision < 0 ? FloatRepr(magnitude)
                                    : fmt::format("{:.{}g}", magnitude, std::max(precision, 1));
        if (spec.precision >= 0 && digits.find_first_of(".e") == std::string::npos) digits += ".0";
        break;
      default:
        digits = fmt::format("{:.{}f}", magnitude, precision);
        break;
    }
  }
  if (spec.comma || spec.underscore) {
    const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
    digits = Group(digits.substr(0, whole), spec.comma ? ',' : '_') + digits.substr(whole);
  }
  return Pad(prefix + digits, spec, '>', prefix.size());
}

std::string FormatString(const std::string& text, const Spec& spec) {
  if (spec.precision < 0) return Pad(text, spec, '<', 0);
  return Pad(std::string(SubString(text, 0, spec.precision)), spec, '<', 0);
}

// Digits at `pos`; -1 where there are none.
int64_t ReadNumber(const std::string& s, size_t* pos) {
  int64_t n = -1;
  for (; *pos < s.size() && s[*pos] >= '0' && s[*pos] <= '9'; ++*pos) {
    n = std::max<int64_t>(n, 0) * 10 + (s[*pos] - '0');
    if (n > INT32_MAX) FailLimit("a number in a format is too large");
  }
  return n;
}

void CheckPrecision(int64_t precision) {
  if (precision > kMaxPrecision) FailLimit("a precision of more than {} digits", kMaxPrecision);
}

std::string FormatPercent(const Value& v, Spec spec) {
  switch (spec.type) {
    case 's':
      return FormatString(ToString(v), spec);
    case 'r':
      return FormatString(Repr(v), spec);
    case 'a':
      return FormatString(StringRepr(ToString(v), true), spec);
    case 'c':
      if (v.is_string() && CodePoints(v.str()) == 1) return FormatString(v.str(), spec);
      Fail("%c needs one character");
    default:
      break;
  }
  if (v.is_undefined()) FailUndefined(v);
  if (!v.is_number()) Fail("%{} needs a number, not {}", spec.type, TypeName(v));
  CheckPrecision(spec.precision);
  if (std::string_view("eEfFgG").find(spec.type) != std::string_view::npos)
    return FormatFloat(v.float_value(), spec);
  if (v.is_int()) return FormatInt(v.int_value(), spec);
  if (spec.type != 'd' && spec.type != 'i' && spec.type != 'u')
    Fail("%{} needs an integer, not float", spec.type);
  if (!(std::fabs(v.float_value()) < 9e18)) FailUnsupported("an integer does not fit into 64 bits");
  return FormatInt(static_cast<int64_t>(v.float_value()), spec);
}

// What is between the braces after the colon.
Spec ParseSpec(const std::string& s) {
  Spec spec;
  size_t pos = 0;
  auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const size_t first = s.empty() ? 0 : CharLength(s, 0);
  if (first < s.size() && first > 0 && is_align(s[first])) {
    spec.fill = s.substr(0, first);
    spec.align = s[first];
    pos = first + 1;
  } else if (!s.empty() && is_align(s[0])) {
    spec.align = s[pos++];
  }
  if (pos < s.size() && std::string_view("+- ").find(s[pos]) != std::string_view::npos)
    spec.sign = s[pos++];
  if (pos < s.size() && s[pos] == '#') spec.alternate = ++pos > 0;
  if (pos < s.size() && s[pos] == '0') {
    ++pos;
    if (!spec.align) {
      spec.fill = "0";
      spec.align = '=';
    }
  }
  spec.width = std::max<int64_t>(ReadNumber(s, &pos), 0);
  if (pos < s.size() && s[pos] == ',') spec.comma = ++pos > 0;
  if (pos < s.size() && s[pos] == '_') spec.underscore = ++pos > 0;
  if (pos < s.size() && s[pos] == '.') {
    ++pos;
    spec.precision = ReadNumber(s, &pos);
    if (spec.precision < 0) Fail("a format has no digits after '.'");
  }
  if (pos < s.size()) spec.type = s[pos++];
  if (pos != s.size()) Fail("invalid format '{}'", s.substr(0, 60));
  return spec;
}

std::string FormatValue(const Value& v, const std::string& format) {
  if (format.empty()) return ToString(v);
  Spec spec = ParseSpec(format);
  if (v.is_string()) {
    if (spec.type != 0 && spec.type != 's') Fail("format '{}' does not fit a string", spec.type);
    if (spec.align == '=') Fail("'=' alignment does not fit a string");
    return FormatString(v.str(), spec);
  }
  if (!v.is_number()) Fail("a value of type {} takes no format", TypeName(v));
  CheckPrecision(spec.precision);
  const bool float_type = std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (v.is_int() && !(spec.type && float_type)) {
    if (std::string_view("dxXobn").find(spec.type) == std::string_view::npos && spec.type)
      Fail("format '{}' does not fit an integer", spec.type);
    if (spec.precision >= 0) Fail("an integer takes no precision");
    return FormatInt(v.int_value(), spec);
  }
  if (spec.type && !float_type) Fail("format '{}' does not fit a float", spec.type);
  return FormatFloat(v.float_value(), spec);
}

class BraceFormatter {
 public:
  explicit BraceFormatter(const Args& args) : args_(args) {}

  std::string Run(const std::string& s, int depth) {
    if (depth > 1) Fail("formats are nested too deep");
    Text out;
    for (size_t pos = 0; pos < s.size();) {
      const char c = s[pos];
      if ((c == '{' || c == '}') && pos + 1 < s.size() && s[pos + 1] == c) {
        out.Append(c);
        pos += 2;
      } else if (c == '{') {
        out.Append(Field(s, &pos, depth));
      } else if (c == '}') {
        Fail("a single '}}' in a format");
      } else {
        const size_t end = std::min(s.find_first_of("{}", pos), s.size());
        out.Append(std::string_view(s).substr(pos, end - pos));
        pos = end;
      }
    }
    return out.Take();
  }

 private:
  std::string Field(const std::string& s, size_t* pos, int depth) {
    size_t end = *pos + 1;
    for (int open = 1; end < s.size(); ++end) {
      if (s[end] == '{') ++open;
      if (s[end] == '}' && --open == 0) break;
    }
    if (end >= s.size()) Fail("a single '{{' in a format");
    const std::string field = s.substr(*pos + 1, end - *pos - 1);
    *pos = end + 1;
    const size_t colon = field.find(':');
    std::string name = field.substr(0, colon);
    std::string format = colon == std::string::npos ? "" : field.substr(colon + 1);
    if (format.find('{') != std::string::npos) format = Run(format, depth + 1);
    char conversion = 0;
    if (name.size() >= 2 && name[name.size() - 2] == '!') {
      conversion = name.back();
      name.resize(name.size() - 2);
    }
    Value v = Resolve(name);
    if (conversion == 'r')
      v = Value::String(Repr(v));
    else if (conversion == 's')
      v = Value::String(ToString(v));
    else if (conversion == 'a')
      v = Value::String(StringRepr(ToString(v), true));
    else if (conversion)
      Fail("unknown conversion '!{}' in a format", conversion);
    return FormatValue(v, format);
  }

  // name, 0, name.attribute, 0[key]
  Value Resolve(const std::string& path) {
    size_t pos = std::min(path.find_first_of(".["), path.size());
    Value v = First(path.substr(0, pos));
    while (pos < path.size()) {
      if (path[pos] == '.') {
        const size_t end = std::min(path.find_first_of(".[", pos + 1), path.size());
        v = GetAttr(v, path.substr(pos + 1, end - pos - 1));
        pos = end;
        continue;
      }
      const size_t end = path.find(']', pos);
      if (path[pos] != '[' || end == std::string::npos) Fail("invalid field in a format");
      const std::string key = path.substr(pos + 1, end - pos - 1);
      size_t digits = 0;
      const int64_t index = ReadNumber(key, &digits);
      v = GetItem(v, index >= 0 && digits == key.size() ? Value::Int(index) : Value::String(key));
      pos = end + 1;
    }
    return v;
  }

  Value First(const std::string& name) {
    size_t digits = 0;
    int64_t index = ReadNumber(name, &digits);
    if (name.empty()) index = next_++;
    if (name.empty() || (index >= 0 && digits == name.size())) {
      if (index >= static_cast<int64_t>(args_.pos.size()))
        Fail("the format needs argument {}, which was not given", index);
      return args_.pos[static_cast<size_t>(index)];
    }
    for (const auto& [key, value] : args_.kw) {
      Work(8);
      if (key == name) return value;
    }
    Fail("the format needs '{}', which was not given", name);
  }

  const Args& args_;
  int64_t next_ = 0;
};

}  // namespace

std::string PercentFormat(const std::string& s, const Value& argument) {
  Text out;
  const bool is_tuple = argument.Is(Kind::kTuple);
  size_t used = 0;
  auto next = [&]() -> Value {
    if (is_tuple) {
      if (used >= argument.items().size()) Fail("not enough arguments for the format");
      return argument.items()[used++];
    }
    if (used++ > 0) Fail("not enough arguments for the format");
    return argument;
  };
  bool by_name = false;
  for (size_t pos = 0; pos < s.size();) {
    const size_t percent = std::min(s.find('%', pos), s.size());
    out.Append(std::string_view(s).substr(pos, percent - pos));
    if (percent == s.size()) break;
    pos = percent + 1;
    Value v;
    bool named = false;
    if (pos < s.size() && s[pos] == '(') {
      const size_t end = s.find(')', pos);
      if (end == std::string::npos) Fail("a format has an unclosed '%('");
      if (!argument.Is(Kind::kDict)) Fail("the format needs a dict");
      const std::string key = s.substr(pos + 1, end - pos - 1);
      const Value* found = argument.as<DictObject>().Find(std::string_view(key));
      if (!found) Fail("the format needs '{}', which the dict does not have", key);
      v = *found;
      named = by_name = true;
      pos = end + 1;
    }
    Spec spec;
    bool zero = false;
    for (; pos < s.size() && std::string_view("-+ #0").find(s[pos]) != std::string_view::npos;
         ++pos) {
      if (s[pos] == '-') spec.align = '<';
      if (s[pos] == '+' || (s[pos] == ' ' && spec.sign != '+')) spec.sign = s[pos];
      if (s[pos] == '#') spec.alternate = true;
      if (s[pos] == '0') zero = true;
    }
    auto star = [&]() -> int64_t {
      ++pos;
      const Value n = next();
      if (!n.is_int() || n.int_value() > INT32_MAX || n.int_value() < -INT32_MAX)
        Fail("* in a format needs an integer");
      return n.int_value();
    };
    spec.width =
        pos < s.size() && s[pos] == '*' ? star() : std::max<int64_t>(ReadNumber(s, &pos), 0);
    if (spec.width < 0) {
      spec.width = -spec.width;
      spec.align = '<';
    }
    if (pos < s.size() && s[pos] == '.') {
      ++pos;
      spec.precision =
          std::max<int64_t>(pos < s.size() && s[pos] == '*' ? star() : ReadNumber(s, &pos), 0);
    }
    if (pos < s.size() && (s[pos] == 'l' || s[pos] == 'h' || s[pos] == 'L')) ++pos;
    if (pos >= s.size()) Fail("the format ends inside a field");
    spec.type = s[pos++];
    if (spec.type == '%') {
      out.Append('%');
      continue;
    }
    if (std::string_view("sracdiuxXoeEfFgG").find(spec.type) == std::string_view::npos)
      Fail("unsupported character in a format after '%'");
    const bool text = std::string_view("srac").find(spec.type) != std::string_view::npos;
    if (zero && !spec.align && !text) {
      spec.fill = "0";
      spec.align = '=';
    }
    if (!spec.align) spec.align = '>';
    out.Append(FormatPercent(named ? v : next(), spec));
  }
  // Python lets anything that has items (but tuples and strings) go unused.
  const bool has_items = argument.Is(Kind::kDict) || argument.Is(Kind::kList) ||
                         argument.Is(Kind::kRange) || argument.is_undefined();
  const bool all_used =
      is_tuple ? used >= argument.items().size() : used > 0 || by_name || has_items;
  if (!all_used) Fail("not all arguments were converted by the format");
  return out.Take();
}

std::string BraceFormat(const std::string& format, const Args& args) {
  return BraceFormatter(args).Run(format, 0);
}

}  // namespace lserve::jinja
