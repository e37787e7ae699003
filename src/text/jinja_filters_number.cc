// Filters that make numbers.
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <unordered_map>

#include "text/jinja_filters.h"
#include "text/jinja_ops.h"
#include "text/jinja_text.h"

namespace lserve::jinja {
namespace {

// Underscores between digits go, as in Python's int() and float(); nullopt where one stands wrong.
std::optional<std::string> WithoutUnderscores(std::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '_') {
      out += s[i];
      continue;
    }
    auto alnum = [&](size_t at) {
      return at < s.size() && std::isalnum(static_cast<unsigned char>(s[at]));
    };
    if (i == 0 || !alnum(i - 1) || !alnum(i + 1)) return std::nullopt;
  }
  return out;
}

std::optional<int64_t> ParseInt(std::string_view text, int base) {
  const auto digits = WithoutUnderscores(Strip(text, kBoth));
  if (!digits || digits->empty()) return std::nullopt;
  std::string s = *digits;
  const bool negative = s[0] == '-';
  if (s[0] == '-' || s[0] == '+') s.erase(0, 1);
  if (s.size() > 2 && s[0] == '0') {
    const char x = static_cast<char>(s[1] | 0x20);
    const int prefixed = x == 'x' ? 16 : x == 'o' ? 8 : x == 'b' ? 2 : 0;
    if (prefixed && (base == prefixed || base == 0)) {
      s.erase(0, 2);
      base = prefixed;
    }
  }
  if (base == 0) base = 10;
  if (s.empty() || !std::isalnum(static_cast<unsigned char>(s[0]))) return std::nullopt;
  // "0x" is only valid where the base says so, which has been taken off above.
  if (base == 16 && s.size() > 1 && s[0] == '0' && (s[1] | 0x20) == 'x') return std::nullopt;
  char* end = nullptr;
  errno = 0;
  s = (negative ? "-" : "") + s;
  const long long value = std::strtoll(s.c_str(), &end, base);
  if (end != s.c_str() + s.size()) return std::nullopt;
  if (errno == ERANGE) FailUnsupported("an integer does not fit into 64 bits");
  return value;
}

std::optional<double> ParseFloat(std::string_view text) {
  const auto s = WithoutUnderscores(Strip(text, kBoth));
  // strtod would take hexadecimal and "nan(...)" as well.
  if (!s || s->empty() || s->find_first_of("xX(") != std::string::npos) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(s->c_str(), &end);
  if (end != s->c_str() + s->size()) return std::nullopt;
  return value;
}

std::optional<int64_t> Truncate(double f) {
  if (!std::isfinite(f)) return std::nullopt;
  if (!(std::fabs(f) < 9.2e18)) FailUnsupported("an integer does not fit into 64 bits");
  return static_cast<int64_t>(f);
}

Value IntFilter(const Value& v, const Args& args) {
  const Params p("int", args, {"default", "base"});
  const Value fallback = p.Or(0, Value::Int(0));
  if (v.is_undefined()) FailUndefined(v);
  if (v.is_int()) return Value::Int(v.int_value());
  std::optional<double> f;
  if (v.is_string()) {
    const int64_t base = p.IntOr(1, 10);
    if (base == 0 || (base >= 2 && base <= 36))
      if (const auto i = ParseInt(v.str(), static_cast<int>(base))) return Value::Int(*i);
    f = ParseFloat(v.str());
  } else if (v.Is(Kind::kFloat)) {
    f = v.float_value();
    if (std::isinf(*f)) Fail("infinity is no integer");
  }
  if (!f) return fallback;
  const auto i = Truncate(*f);
  return i ? Value::Int(*i) : fallback;
}

Value FloatFilter(const Value& v, const Args& args) {
  const Params p("float", args, {"default"});
  if (v.is_undefined()) FailUndefined(v);
  if (v.is_number()) return Value::Float(v.float_value());
  if (v.is_string())
    if (const auto f = ParseFloat(v.str())) return Value::Float(*f);
  return p.Or(0, Value::Float(0));
}

Value AbsFilter(const Value& v, const Args& args) {
  Params("abs", args, {});
  if (v.Is(Kind::kFloat)) return Value::Float(std::fabs(v.float_value()));
  if (v.is_undefined()) FailUndefined(v);
  if (!v.is_int()) Fail("abs() needs a number, not {}", TypeName(v));
  return v.int_value() < 0 ? Negate(v) : Value::Int(v.int_value());
}

// round(int, n) of Python: half to even, n digits before the point where n is negative.
Value RoundInt(int64_t value, int64_t precision) {
  if (precision >= 0) return Value::Int(value);
  if (precision < -18) return Value::Int(0);
  int64_t unit = 1;
  for (; precision < 0; ++precision) unit *= 10;
  int64_t rest = value % unit;
  int64_t down = value - rest;
  if (rest < 0) {
    rest += unit;
    if (down < INT64_MIN + unit) FailUnsupported("an integer does not fit into 64 bits");
    down -= unit;
  }
  const bool up = rest > unit - rest || (rest == unit - rest && (down / unit) % 2 != 0);
  if (up && down > INT64_MAX - unit) FailUnsupported("an integer does not fit into 64 bits");
  return Value::Int(up ? down + unit : down);
}

// Correctly rounded from the exact decimal expansion, as Python does it.
double RoundFloat(double f, int64_t precision) {
  if (!std::isfinite(f) || precision > 323) return f;
  if (precision < -308) return std::copysign(0.0, f);
  if (precision >= 0)
    return std::strtod(fmt::format("{:.{}f}", f, static_cast<int>(precision)).c_str(), nullptr);
  const double unit = std::pow(10.0, static_cast<double>(-precision));
  return std::nearbyint(f / unit) * unit;
}

Value RoundFilter(const Value& v, const Args& args) {
  const Params p("round", args, {"precision", "method"});
  const int64_t precision = p.IntOr(0, 0);
  const std::string method = p.Has(1) && p[1].is_string() ? p[1].str() : "common";
  if (v.is_undefined()) FailUndefined(v);
  if (!v.is_number()) Fail("round() needs a number, not {}", TypeName(v));
  if (method == "common") {
    if (v.is_int()) return RoundInt(v.int_value(), precision);
    return Value::Float(RoundFloat(v.float_value(), precision));
  }
  if (method != "ceil" && method != "floor") Fail("round() knows 'common', 'ceil' and 'floor'");
  const double unit = std::pow(10.0, static_cast<double>(precision));
  const double scaled = v.float_value() * unit;
  if (!std::isfinite(scaled)) Fail("round(): the number is too large");
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

Value FileSizeFilter(const Value& v, const Args& args) {
  const Params p("filesizeformat", args, {"binary"});
  if (v.is_undefined()) FailUndefined(v);
  const auto parsed = v.is_number()   ? v.float_value()
                      : v.is_string() ? ParseFloat(v.str())
                                      : std::nullopt;
  if (!parsed) Fail("filesizeformat() needs a number");
  const bool binary = p.TrueOr(0, false);
  const double base = binary ? 1024 : 1000, bytes = *parsed;
  if (!std::isfinite(bytes)) Fail("filesizeformat() needs a finite number");
  if (bytes == 1) return Value::String("1 Byte");
  if (bytes < base) return Value::String(fmt::format("{:.0f} Bytes", std::trunc(bytes)));
  static constexpr char kUnits[] = "kMGTPEZY";
  double unit = base;
  size_t i = 0;
  while (i < 7 && bytes >= unit * base) {
    unit *= base;
    ++i;
  }
  const char letter = binary && kUnits[i] == 'k' ? 'K' : kUnits[i];
  return Value::String(fmt::format("{:.1f} {}{}", bytes / unit, letter, binary ? "iB" : "B"));
}

}  // namespace

FilterFunction FindNumberFilter(const std::string& name) {
  static const std::unordered_map<std::string, FilterFunction> kFilters = {
      {"int", IntFilter},
      {"float", FloatFilter},
      {"abs", AbsFilter},
      {"round", RoundFilter},
      {"filesizeformat", FileSizeFilter}};
  auto it = kFilters.find(name);
  return it == kFilters.end() ? nullptr : it->second;
}

}  // namespace lserve::jinja
