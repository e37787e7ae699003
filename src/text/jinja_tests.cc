// Jinja2's tests: what stands after `is`, and what select and its kin take.
#include <unordered_map>

#include "text/jinja_filters.h"
#include "text/jinja_ops.h"
#include "text/jinja_print.h"
#include "text/jinja_text.h"

namespace lserve::jinja {
namespace {

using TestFunction = bool (*)(const Value& v, const Value& argument);

struct Test {
  TestFunction function;
  size_t arguments;
};

int64_t Modulo(const Value& v, const Value& by) {
  const Value r = Arithmetic(Op::kMod, v, by);
  return r.is_int() ? r.int_value() : r.float_value() == 0 ? 0 : r.float_value() == 1 ? 1 : -1;
}

bool IsCallable(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:  // its class has __call__
    case Kind::kMacro:
    case Kind::kMethod:
    case Kind::kGlobal:
    case Kind::kJoiner:
    case Kind::kLoop:
      return true;
    default:
      return false;
  }
}

bool IsSequence(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange:
      return true;
    default:
      return false;
  }
}

bool IsSame(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  if (a.Is(Kind::kNone)) return true;
  if (a.is_number() || a.is_string()) return Equal(a, b);
  return a.object() == b.object();
}

const std::unordered_map<std::string, Test>& Tests() {
  using V = const Value&;
  static const std::unordered_map<std::string, Test> kTests = {
      {"defined", {[](V v, V) { return !v.is_undefined(); }, 0}},
      {"undefined", {[](V v, V) { return v.is_undefined(); }, 0}},
      {"none", {[](V v, V) { return v.Is(Kind::kNone); }, 0}},
      {"boolean", {[](V v, V) { return v.Is(Kind::kBool); }, 0}},
      {"true", {[](V v, V) { return v.Is(Kind::kBool) && v.bool_value(); }, 0}},
      {"false", {[](V v, V) { return v.Is(Kind::kBool) && !v.bool_value(); }, 0}},
      {"integer", {[](V v, V) { return v.Is(Kind::kInt); }, 0}},
      {"float", {[](V v, V) { return v.Is(Kind::kFloat); }, 0}},
      {"number", {[](V v, V) { return v.is_number(); }, 0}},
      {"string", {[](V v, V) { return v.is_string(); }, 0}},
      {"mapping", {[](V v, V) { return v.Is(Kind::kDict); }, 0}},
      {"sequence", {[](V v, V) { return IsSequence(v); }, 0}},
      {"iterable", {[](V v, V) { return IsIterable(v); }, 0}},
      {"callable", {[](V v, V) { return IsCallable(v); }, 0}},
      {"escaped", {[](V, V) { return false; }, 0}},
      {"lower", {[](V v, V) { return IsLower(ToString(v)); }, 0}},
      {"upper", {[](V v, V) { return IsUpper(ToString(v)); }, 0}},
      {"odd", {[](V v, V) { return Modulo(v, Value::Int(2)) == 1; }, 0}},
      {"even", {[](V v, V) { return Modulo(v, Value::Int(2)) == 0; }, 0}},
      {"divisibleby", {[](V v, V by) { return Modulo(v, by) == 0; }, 1}},
      {"sameas", {[](V v, V other) { return IsSame(v, other); }, 1}},
      {"in", {[](V v, V seq) { return Contains(seq, v); }, 1}},
      {"filter", {[](V v, V) { return v.is_string() && FindFilter(v.str()) != nullptr; }, 0}},
      {"test", {[](V v, V) { return v.is_string() && HasTest(v.str()); }, 0}},
      {"eq", {[](V a, V b) { return Equal(a, b); }, 1}},
      {"==", {[](V a, V b) { return Equal(a, b); }, 1}},
      {"equalto", {[](V a, V b) { return Equal(a, b); }, 1}},
      {"ne", {[](V a, V b) { return !Equal(a, b); }, 1}},
      {"!=", {[](V a, V b) { return !Equal(a, b); }, 1}},
      {"gt", {[](V a, V b) { return Less(b, a); }, 1}},
      {">", {[](V a, V b) { return Less(b, a); }, 1}},
      {"greaterthan", {[](V a, V b) { return Less(b, a); }, 1}},
      {"ge", {[](V a, V b) { return LessOrEqual(b, a); }, 1}},
      {">=", {[](V a, V b) { return LessOrEqual(b, a); }, 1}},
      {"lt", {[](V a, V b) { return Less(a, b); }, 1}},
      {"<", {[](V a, V b) { return Less(a, b); }, 1}},
      {"lessthan", {[](V a, V b) { return Less(a, b); }, 1}},
      {"le", {[](V a, V b) { return LessOrEqual(a, b); }, 1}},
      {"<=", {[](V a, V b) { return LessOrEqual(a, b); }, 1}}};
  return kTests;
}

}  // namespace

bool HasTest(const std::string& name) { return Tests().count(name) > 0; }

bool CallTest(const std::string& name, const Value& value, const Args& args) {
  auto it = Tests().find(name);
  if (it == Tests().end()) Fail("no test named '{}'", name);
  const size_t given = args.pos.size() + args.kw.size();
  if (given != it->second.arguments)
    Fail("test '{}' takes {} arguments, {} were given", name, it->second.arguments, given);
  const Value none = Value::None();
  const Value& argument = given == 0 ? none : args.pos.empty() ? args.kw[0].second : args.pos[0];
  return it->second.function(value, argument);
}

}  // namespace lserve::jinja
