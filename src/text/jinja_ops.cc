#include "text/jinja_ops.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "text/jinja_format.h"
#include "text/jinja_text.h"

namespace lserve::jinja {
namespace {

[[noreturn]] void FailOperands(const char* op, const Value& a, const Value& b) {
  if (a.is_undefined()) FailUndefined(a);
  if (b.is_undefined()) FailUndefined(b);
  Fail("'{}' does not work on {} and {}", op, TypeName(a), TypeName(b));
}

// int against float as Python does it: by value, not after rounding the int.
int CompareIntFloat(int64_t i, double f) {
  if (f >= 9223372036854775808.0) return -1;
  if (f < -9223372036854775808.0) return 1;
  const double whole = std::floor(f);
  const int64_t w = static_cast<int64_t>(whole);
  if (i != w) return i < w ? -1 : 1;
  return f > whole ? -1 : 0;
}

// -1, 0, 1, or 2 where one is NaN.
int CompareNumbers(const Value& a, const Value& b) {
  if (a.is_int() && b.is_int())
    return a.int_value() < b.int_value() ? -1 : a.int_value() > b.int_value();
  if (std::isnan(a.float_value()) || std::isnan(b.float_value())) return 2;
  if (a.is_int()) return CompareIntFloat(a.int_value(), b.float_value());
  if (b.is_int()) return -CompareIntFloat(b.int_value(), a.float_value());
  return a.float_value() < b.float_value() ? -1 : a.float_value() > b.float_value();
}

bool EqualDicts(const DictObject& a, const DictObject& b) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Value* other = b.Find(key);
    if (!other || !Equal(value, *other)) return false;
  }
  return true;
}

int64_t Checked(bool overflow, int64_t value) {
  if (overflow) FailUnsupported("an integer does not fit into 64 bits");
  return value;
}

int64_t FloorDiv(int64_t a, int64_t b) {
  const int64_t q = Checked(a == INT64_MIN && b == -1, b == -1 ? 0 : a / b);
  if (b == -1) return -a;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

double FloatMod(double a, double b) {
  double r = std::fmod(a, b);
  if (r != 0 && (r < 0) != (b < 0)) r += b;
  if (r == 0) r = std::copysign(0.0, b);
  return r;
}

double FloatFloorDiv(double a, double b) {
  double mod = std::fmod(a, b);
  double div = (a - mod) / b;
  if (mod != 0 && (b < 0) != (mod < 0)) div -= 1.0;
  if (div == 0) return std::copysign(0.0, a / b);
  double whole = std::floor(div);
  return div - whole > 0.5 ? whole + 1.0 : whole;
}

Value Power(const Value& a, const Value& b) {
  if (a.is_int() && b.is_int() && b.int_value() >= 0) {
    int64_t result = 1, base = a.int_value(), exponent = b.int_value();
    if (base == 0 || base == 1) return Value::Int(exponent == 0 ? 1 : base);
    if (base == -1) return Value::Int(exponent % 2 ? -1 : 1);
    for (; exponent > 0; --exponent) {
      int64_t next = 0;
      const bool overflow = __builtin_mul_overflow(result, base, &next);
      result = Checked(overflow, next);
    }
    return Value::Int(result);
  }
  const double x = a.float_value(), y = b.float_value();
  if (x == 0 && y < 0) Fail("0 cannot be raised to a negative power");
  if (x < 0 && y != std::floor(y)) FailUnsupported("complex numbers");
  const double r = std::pow(x, y);
  if (std::isinf(r) && std::isfinite(x) && std::isfinite(y)) Fail("the result is too large");
  return Value::Float(r);
}

Value Numbers(Op op, const Value& a, const Value& b) {
  const bool ints = a.is_int() && b.is_int();
  const int64_t x = ints ? a.int_value() : 0, y = ints ? b.int_value() : 0;
  const double f = a.float_value(), g = b.float_value();
  int64_t r = 0;
  switch (op) {
    case Op::kAdd: {
      if (!ints) return Value::Float(f + g);
      const bool overflow = __builtin_add_overflow(x, y, &r);
      return Value::Int(Checked(overflow, r));
    }
    case Op::kSub: {
      if (!ints) return Value::Float(f - g);
      const bool overflow = __builtin_sub_overflow(x, y, &r);
      return Value::Int(Checked(overflow, r));
    }
    case Op::kMul: {
      if (!ints) return Value::Float(f * g);
      const bool overflow = __builtin_mul_overflow(x, y, &r);
      return Value::Int(Checked(overflow, r));
    }
    case Op::kPow:
      return Power(a, b);
    default:
      break;
  }
  if (g == 0) Fail("division by zero");
  if (op == Op::kDiv) return Value::Float(f / g);
  if (op == Op::kFloorDiv)
    return ints ? Value::Int(FloorDiv(x, y)) : Value::Float(FloatFloorDiv(f, g));
  if (!ints) return Value::Float(FloatMod(f, g));
  if (y == -1) return Value::Int(0);
  r = x % y;
  return Value::Int(r != 0 && (r < 0) != (y < 0) ? r + y : r);
}

Value Concatenate(const Value& a, const Value& b) {
  if (a.is_string()) {
    CheckSize(a.str().size() + b.str().size());
    Work(a.str().size() + b.str().size());
    return Value::String(a.str() + b.str());
  }
  Values items = a.items();
  CheckSize((items.size() + b.items().size()) * sizeof(Value));
  items.insert(items.end(), b.items().begin(), b.items().end());
  return Value(a.kind(), std::make_shared<ListObject>(std::move(items)));
}

Value Repeat(const Value& sequence, int64_t count) {
  const size_t n = count > 0 ? static_cast<size_t>(count) : 0;
  if (sequence.is_string()) {
    Text text;
    text.Fill(n, sequence.str());
    return Value::String(text.Take());
  }
  const Values& items = sequence.items();
  const size_t total = CheckedProduct(n, items.size() * sizeof(Value)) / sizeof(Value);
  Work(total);
  Values out;
  out.reserve(total);
  for (size_t i = 0; i < n && !items.empty(); ++i)
    out.insert(out.end(), items.begin(), items.end());
  return Value(sequence.kind(), std::make_shared<ListObject>(std::move(out)));
}

const char* Symbol(Op op) {
  static constexpr const char* kSymbols[] = {
      "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kSymbols[static_cast<size_t>(op)];
}

}  // namespace

bool Truth(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return v.int_value() != 0;
    case Kind::kFloat:
      return v.float_value() != 0;
    case Kind::kString:
      return !v.str().empty();
    case Kind::kList:
    case Kind::kTuple:
      return !v.items().empty();
    case Kind::kDict:
    case Kind::kRange:
    case Kind::kView:
    case Kind::kLoop:
      return Length(v) != 0;
    default:
      return true;
  }
}

bool Equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return CompareNumbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      if (a.str().size() == b.str().size()) Work(a.str().size());
      return a.str() == b.str();
    case Kind::kList:
    case Kind::kTuple: {
      if (a.object() == b.object()) return true;
      const Values &x = a.items(), &y = b.items();
      if (x.size() != y.size()) return false;
      Work(16 * x.size());
      return std::equal(x.begin(), x.end(), y.begin(), Equal);
    }
    case Kind::kDict:
      Work(16 * a.as<DictObject>().items.size());
      return a.object() == b.object() || EqualDicts(a.as<DictObject>(), b.as<DictObject>());
    case Kind::kRange: {
      const auto &x = a.as<RangeObject>(), &y = b.as<RangeObject>();
      if (x.size() != y.size()) return false;
      return x.size() == 0 || (x.start == y.start && (x.size() == 1 || x.step == y.step));
    }
    case Kind::kView: {
      const auto &x = a.as<ViewObject>(), &y = b.as<ViewObject>();
      if (x.of == ViewObject::Of::kValues || x.of != y.of) return a.object() == b.object();
      if (Length(a) != Length(b)) return false;
      for (const Value& item : Iterate(a))
        if (!Contains(b, item)) return false;
      return true;
    }
    case Kind::kMethod: {
      const auto &x = a.as<MethodObject>(), &y = b.as<MethodObject>();
      return x.name == y.name && x.self.object() == y.self.object();
    }
    default:
      return a.object() == b.object();
  }
}

size_t Hash(const Value& v) {
  switch (v.kind()) {
    case Kind::kBool:
    case Kind::kInt:
      return std::hash<int64_t>()(v.int_value());
    case Kind::kFloat: {
      const double f = v.float_value();
      if (f == std::floor(f) && std::fabs(f) < 9e18)
        return std::hash<int64_t>()(static_cast<int64_t>(f));
      return std::hash<double>()(f);
    }
    case Kind::kString:
      Work(v.str().size());
      return std::hash<std::string>()(v.str());
    case Kind::kTuple: {
      size_t hash = v.items().size();
      Work(16 * v.items().size());
      for (const Value& item : v.items()) hash = hash * 1000003 ^ Hash(item);
      return hash;
    }
    case Kind::kList:
    case Kind::kDict:
    case Kind::kView:
      Fail("unhashable type: '{}'", TypeName(v));
    case Kind::kUndefined:
    case Kind::kNone:
      return static_cast<size_t>(v.kind());
    default:
      return std::hash<const void*>()(v.object().get());
  }
}

static bool Ordered(const Value& a, const Value& b, bool or_equal) {
  const char* op = or_equal ? "<=" : "<";
  if (a.is_number() && b.is_number()) {
    const int c = CompareNumbers(a, b);
    return c == -1 || (or_equal && c == 0);
  }
  if (a.kind() != b.kind()) FailOperands(op, a, b);
  if (a.is_string()) {
    Work(std::min(a.str().size(), b.str().size()));
    // UTF-8 sorts as its code points do.
    const int c = a.str().compare(b.str());
    return or_equal ? c <= 0 : c < 0;
  }
  if (a.is_list_or_tuple()) {
    const Values &x = a.items(), &y = b.items();
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!Equal(x[i], y[i])) return Ordered(x[i], y[i], or_equal);
    return or_equal ? x.size() <= y.size() : x.size() < y.size();
  }
  FailOperands(op, a, b);
}

bool Less(const Value& a, const Value& b) { return Ordered(a, b, false); }
bool LessOrEqual(const Value& a, const Value& b) { return Ordered(a, b, true); }

bool Contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kString:
      if (item.is_undefined()) Fail("'in <string>' requires string as left operand, not Undefined");
      if (!item.is_string()) FailOperands("in", item, container);
      return FindText(container.str(), item.str()) != std::string::npos;
    case Kind::kDict:
      return container.as<DictObject>().Find(item) != nullptr;
    case Kind::kView: {
      const auto& view = container.as<ViewObject>();
      if (view.of == ViewObject::Of::kKeys) return Contains(view.dict, item);
      break;
    }
    case Kind::kList:
    case Kind::kTuple:
      Work(container.items().size());
      return std::any_of(container.items().begin(), container.items().end(),
                         [&](const Value& v) { return Equal(v, item); });
    case Kind::kUndefined:
      return false;
    default:
      break;
  }
  for (const Value& v : Iterate(container))
    if (Equal(v, item)) return true;
  return false;
}

Value Arithmetic(Op op, const Value& a, const Value& b) {
  if (a.is_undefined() && !a.is_string()) FailUndefined(a);
  if (op == Op::kMod && a.is_string()) return Value::String(PercentFormat(a.str(), b));
  if (a.is_number() && b.is_number()) return Numbers(op, a, b);
  if (op == Op::kAdd && a.kind() == b.kind() && (a.is_string() || a.is_list_or_tuple()))
    return Concatenate(a, b);
  if (op == Op::kMul && b.is_int() && (a.is_string() || a.is_list_or_tuple()))
    return Repeat(a, b.int_value());
  if (op == Op::kMul && a.is_int() && (b.is_string() || b.is_list_or_tuple()))
    return Repeat(b, a.int_value());
  FailOperands(Symbol(op), a, b);
}

bool CompareOp(Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::kEq:
      return Equal(a, b);
    case Op::kNe:
      return !Equal(a, b);
    case Op::kLt:
      return Less(a, b);
    case Op::kLe:
      return LessOrEqual(a, b);
    case Op::kGt:
      return Less(b, a);
    case Op::kGe:
      return LessOrEqual(b, a);
    case Op::kIn:
      return Contains(b, a);
    case Op::kNotIn:
      return !Contains(b, a);
    default:
      CHECK(false);
      return false;
  }
}

Value Negate(const Value& v) {
  if (v.is_int())
    return Value::Int(
        Checked(v.int_value() == INT64_MIN, v.int_value() == INT64_MIN ? 0 : -v.int_value()));
  if (v.Is(Kind::kFloat)) return Value::Float(-v.float_value());
  if (v.is_undefined()) FailUndefined(v);
  Fail("'-' does not work on {}", TypeName(v));
}

Value Plus(const Value& v) {
  if (v.is_int()) return Value::Int(v.int_value());
  if (v.Is(Kind::kFloat)) return v;
  if (v.is_undefined()) FailUndefined(v);
  Fail("'+' does not work on {}", TypeName(v));
}

}  // namespace lserve::jinja
