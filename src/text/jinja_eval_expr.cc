#include <algorithm>

#include "text/jinja_eval.h"
#include "text/jinja_filters.h"
#include "text/jinja_print.h"
#include "text/utf8.h"

namespace lserve::jinja {
namespace {

constexpr int64_t kMaxRange = 100000;  // as Jinja2's sandbox

Value GlobalFunction(std::string_view name) {
  static constexpr std::pair<std::string_view, Global> kGlobals[] = {
      {"raise_exception", Global::kRaiseException},
      {"strftime_now", Global::kStrftimeNow},
      {"range", Global::kRange},
      {"dict", Global::kDict},
      {"namespace", Global::kNamespace},
      {"cycler", Global::kCycler},
      {"joiner", Global::kJoiner}};
  for (const auto& [known, function] : kGlobals) {
    if (known != name) continue;
    auto object = std::make_shared<GlobalObject>();
    object->function = function;
    return Value(Kind::kGlobal, std::move(object));
  }
  return Value::Undefined("'" + std::string(name) + "' is undefined");
}

Value MakeRange(const Args& args) {
  const Params p("range", args, {"start", "stop", "step"}, 1);
  auto range = std::make_shared<RangeObject>();
  if (p.Has(1)) {
    range->start = p.IntOr(0, 0);
    range->stop = p.IntOr(1, 0);
  } else {
    range->stop = p.IntOr(0, 0);
  }
  range->step = p.IntOr(2, 1);
  if (range->step == 0) Fail("the step of range() must not be zero");
  if (range->size() > kMaxRange || range->size() < 0)
    Fail("range() of more than {} elements", kMaxRange);
  return Value(Kind::kRange, std::move(range));
}

// dict(mapping or pairs, **more): what namespace() takes too.
std::vector<DictObject::Item> DictItems(const char* function, const Args& args) {
  if (args.pos.size() > 1) Fail("{}() takes at most one positional argument", function);
  std::vector<DictObject::Item> items;
  if (!args.pos.empty()) {
    const Value& from = args.pos[0];
    if (from.Is(Kind::kDict)) {
      items = from.as<DictObject>().items;
    } else {
      for (const Value& pair : Iterate(from)) {
        Values two = Iterate(pair);
        if (two.size() != 2) Fail("{}() needs pairs", function);
        items.emplace_back(two[0], two[1]);
      }
    }
  }
  for (const auto& [name, value] : args.kw) items.emplace_back(Value::String(name), value);
  return items;
}

}  // namespace

Value Evaluator::Eval(const Expr& e, const ScopePtr& scope) {
  Step();
  DepthGuard depth;
  line_ = e.line;
  return EvalNode(e, scope);
}

Value Evaluator::EvalNode(const Expr& e, const ScopePtr& scope) {
  switch (e.kind) {
    case ExprKind::kConst:
      return e.constant;
    case ExprKind::kName:
      return Lookup(e.name, scope);
    case ExprKind::kList:
      return Value::List(EvalItems(e, scope));
    case ExprKind::kTuple:
      return Value::Tuple(EvalItems(e, scope));
    case ExprKind::kDict: {
      DictBuilder dict;
      for (size_t i = 0; i < e.args.size(); i += 2) {
        Value key = Eval(*e.args[i], scope);
        dict.Set(std::move(key), Eval(*e.args[i + 1], scope));
      }
      return dict.Take();
    }
    case ExprKind::kCond:
      if (Truth(Eval(*e.args[0], scope))) return Eval(*e.args[1], scope);
      if (e.args.size() > 2) return Eval(*e.args[2], scope);
      return Value::Undefined("the inline if-expression evaluated to false and has no else");
    case ExprKind::kOr:
    case ExprKind::kAnd: {
      Value v;
      for (const ExprPtr& arg : e.args) {
        v = Eval(*arg, scope);
        if (Truth(v) == (e.kind == ExprKind::kOr)) return v;
      }
      return v;
    }
    case ExprKind::kNot:
      return Value::Bool(!Truth(Eval(*e.args[0], scope)));
    case ExprKind::kNegate:
      return Negate(Eval(*e.args[0], scope));
    case ExprKind::kPlus:
      return Plus(Eval(*e.args[0], scope));
    case ExprKind::kBinary:
      return EvalBinary(e, scope);
    case ExprKind::kCompare:
      return EvalCompare(e, scope);
    case ExprKind::kConcat: {
      Text text;
      for (const ExprPtr& arg : e.args) text.Append(ToString(Eval(*arg, scope)));
      return Value::String(text.Take());
    }
    case ExprKind::kFilter: {
      const Value operand = Eval(*e.args[0], scope);
      const Args args = EvalArgs(e, scope);
      line_ = e.line;
      return CallFilter(e.name, operand, args);
    }
    case ExprKind::kTest: {
      const Value operand = Eval(*e.args[0], scope);
      const Args args = EvalArgs(e, scope);
      line_ = e.line;
      return Value::Bool(CallTest(e.name, operand, args));
    }
    case ExprKind::kCall: {
      const Value callee = Eval(*e.args[0], scope);
      const Args args = EvalArgs(e, scope);
      line_ = e.line;
      return Call(callee, args);
    }
    case ExprKind::kAttr: {
      const Value object = Eval(*e.args[0], scope);
      line_ = e.line;
      return GetAttr(object, e.name);
    }
    case ExprKind::kItem: {
      const Value object = Eval(*e.args[0], scope);
      const Value key = Eval(*e.args[1], scope);
      return GetItem(object, key);
    }
    case ExprKind::kSlice:
      return EvalSlice(e, scope);
  }
  return Value();
}

Value Evaluator::EvalBinary(const Expr& e, const ScopePtr& scope) {
  Value left = Eval(*e.args[0], scope);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    const Value right = Eval(*e.args[i + 1], scope);
    left = Arithmetic(e.ops[i], left, right);
  }
  return left;
}

Value Evaluator::EvalCompare(const Expr& e, const ScopePtr& scope) {
  Value left = Eval(*e.args[0], scope);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    Value right = Eval(*e.args[i + 1], scope);
    if (!CompareOp(e.ops[i], left, right)) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Value Evaluator::EvalSlice(const Expr& e, const ScopePtr& scope) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) parts[i] = e.args[i] ? Eval(*e.args[i], scope) : Value::None();
  return GetSlice(parts[0], parts[1], parts[2], parts[3]);
}

Value Evaluator::Lookup(const std::string& name, const ScopePtr& scope) {
  for (const Scope* s = scope.get(); s; s = s->parent.get()) {
    Work(8);
    auto it = s->vars.find(name);
    if (it != s->vars.end()) return it->second;
  }
  if (const Value* v = context_.as<DictObject>().Find(std::string_view(name))) return *v;
  return GlobalFunction(name);
}

Values Evaluator::EvalItems(const Expr& e, const ScopePtr& scope) {
  Values items;
  items.reserve(e.args.size());
  for (const ExprPtr& arg : e.args) items.push_back(Eval(*arg, scope));
  return items;
}

Args Evaluator::EvalArgs(const Expr& e, const ScopePtr& scope) {
  Args args;
  for (size_t i = 1; i < e.args.size(); ++i) args.pos.push_back(Eval(*e.args[i], scope));
  for (const auto& [name, expr] : e.kwargs) args.kw.emplace_back(name, Eval(*expr, scope));
  if (e.star) {
    const Values more = Iterate(Eval(*e.star, scope));
    args.pos.insert(args.pos.end(), more.begin(), more.end());
  }
  if (e.star_star) {
    const Value more = Eval(*e.star_star, scope);
    if (!more.Is(Kind::kDict)) Fail("** needs a dict, not {}", TypeName(more));
    for (const auto& [key, value] : more.as<DictObject>().items) {
      if (!key.is_string()) Fail("names of arguments must be strings");
      for (const auto& other : args.kw) {
        Work(8);
        if (other.first == key.str()) Fail("argument '{}' is given twice", key.str());
      }
      args.kw.emplace_back(key.str(), value);
    }
  }
  return args;
}

// The filters of a {% filter %} or {% set %} block, whose innermost operand is the block's text.
Value Evaluator::ApplyFilters(const Expr& e, const Value& innermost, const ScopePtr& scope) {
  const Value operand = e.args[0] ? ApplyFilters(*e.args[0], innermost, scope) : innermost;
  const Args args = EvalArgs(e, scope);
  line_ = e.line;
  return CallFilter(e.name, operand, args);
}

Value Evaluator::Call(const Value& callee, const Args& args) {
  DepthGuard depth;
  switch (callee.kind()) {
    case Kind::kUndefined:
      FailUndefined(callee);
    case Kind::kMacro:
      return CallMacro(callee.as<MacroObject>(), args);
    case Kind::kMethod:
      return CallMethod(callee.as<MethodObject>().self, callee.as<MethodObject>().name, args);
    case Kind::kGlobal:
      return CallGlobal(callee.as<GlobalObject>().function, args);
    case Kind::kJoiner: {
      auto& joiner = callee.as<JoinerObject>();
      if (!args.pos.empty() || !args.kw.empty()) Fail("a joiner takes no arguments");
      if (joiner.used) return joiner.separator;
      joiner.used = true;
      return Value::String("");
    }
    default:
      Fail("'{}' cannot be called", TypeName(callee));
  }
}

Value Evaluator::CallMacro(const MacroObject& macro, const Args& args) {
  const MacroDef& def = *macro.def;
  // Jinja2 looks a missing argument's default up in the macro's own scope, so that earlier
  // arguments can be used in it.
  ScopePtr scope = NewScope(macro.scope);
  std::vector<bool> used(args.kw.size());
  auto keyword = [&](const std::string& name) -> const Value* {
    for (size_t i = 0; i < args.kw.size(); ++i) {
      Work(8);
      if (used[i] || args.kw[i].first != name) continue;
      used[i] = true;
      return &args.kw[i].second;
    }
    return nullptr;
  };
  bool caller_is_param = false;
  std::vector<const Param*> absent;
  for (size_t i = 0; i < def.params.size(); ++i) {
    const Param& param = def.params[i];
    caller_is_param |= param.name == "caller";
    if (i < args.pos.size())
      scope->vars[param.name] = args.pos[i];
    else if (const Value* v = keyword(param.name))
      scope->vars[param.name] = *v;
    else
      absent.push_back(&param);
  }
  if (def.uses_caller && !caller_is_param) {
    const Value* caller = keyword("caller");
    scope->vars["caller"] = caller ? *caller : Value::Undefined("No caller defined");
  }
  DictBuilder kwargs;
  for (size_t i = 0; i < args.kw.size(); ++i) {
    if (used[i]) continue;
    if (!def.uses_kwargs) Fail("macro '{}' has no argument '{}'", macro.name, args.kw[i].first);
    kwargs.Set(Value::String(args.kw[i].first), args.kw[i].second);
  }
  if (def.uses_kwargs) scope->vars["kwargs"] = kwargs.Take();
  if (args.pos.size() > def.params.size() && !def.uses_varargs)
    Fail("macro '{}' takes at most {} arguments", macro.name, def.params.size());
  if (def.uses_varargs) {
    const size_t first = std::min(args.pos.size(), def.params.size());
    scope->vars["varargs"] =
        Value::Tuple(Values(args.pos.begin() + static_cast<int64_t>(first), args.pos.end()));
  }
  for (const Param* param : absent) {
    scope->vars[param->name] =
        param->fallback ? Eval(*param->fallback, scope)
                        : Value::Undefined("parameter '" + param->name + "' was not provided");
  }
  const int line = line_;
  Text text;
  RunBody(def.body, scope, &text);
  line_ = line;
  return Value::String(text.Take());
}

Value Evaluator::CallGlobal(Global function, const Args& args) {
  switch (function) {
    case Global::kRaiseException: {
      const Params p("raise_exception", args, {"message"}, 1);
      throw TemplateError{Code::kInvalidArgument, ToString(p[0]), line_, true};
    }
    case Global::kStrftimeNow:
      return StrftimeNow(args);
    case Global::kRange:
      return MakeRange(args);
    case Global::kDict: {
      DictBuilder dict;
      for (auto& [key, value] : DictItems("dict", args)) dict.Set(key, value);
      return dict.Take();
    }
    case Global::kNamespace: {
      auto ns = std::make_shared<NamespaceObject>();
      for (auto& [key, value] : DictItems("namespace", args)) {
        if (!key.is_string()) Fail("names in a namespace must be strings");
        ns->Set(key.str(), value);
      }
      namespaces_.push_back(ns);
      return Value(Kind::kNamespace, std::move(ns));
    }
    case Global::kCycler: {
      if (!args.kw.empty() || args.pos.empty()) Fail("cycler() needs items");
      auto cycler = std::make_shared<CyclerObject>();
      cycler->items = args.pos;
      Value v(Kind::kCycler, std::move(cycler));
      if (v.depth() > kMaxValueDepth)
        FailLimit("values are nested more than {} deep", kMaxValueDepth);
      return v;
    }
    case Global::kJoiner: {
      const Params p("joiner", args, {"sep"});
      auto joiner = std::make_shared<JoinerObject>();
      joiner->separator = p.Or(0, Value::String(", "));
      return Value(Kind::kJoiner, std::move(joiner));
    }
  }
  return Value();
}

Value Evaluator::StrftimeNow(const Args& args) {
  const Params p("strftime_now", args, {"format"}, 1);
  if (!p[0].is_string()) Fail("strftime_now() needs a string");
  std::tm tm{};
  gmtime_r(&now_, &tm);
  // A format may stand for nothing, which strftime cannot tell from a full buffer: the extra
  // character makes the difference.
  const std::string format = p[0].str() + "x";
  if (format.size() > 1000) FailLimit("the format of strftime_now() has more than 1000 bytes");
  std::string buffer(64 * 1024, '\0');
  const size_t size = std::strftime(buffer.data(), buffer.size(), format.c_str(), &tm);
  if (size == 0) FailLimit("strftime_now() makes too much text");
  buffer.resize(size - 1);
  std::string valid;
  text::AppendValidUtf8(buffer, &valid);
  return Value::String(std::move(valid));
}

}  // namespace lserve::jinja
