// Attributes and methods of Python's types, as far as transformers' immutable sandbox lets
// templates reach them.
#include <algorithm>
#include <array>

#include "text/jinja_eval.h"
#include "text/jinja_format.h"
#include "text/jinja_ops.h"
#include "text/jinja_print.h"
#include "text/jinja_text.h"

namespace lserve::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

bool In(std::string_view name, Names names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Value Str(std::string_view s) { return Value::String(std::string(s)); }

Value Strings(const std::vector<std::string_view>& parts) {
  CheckedProduct(parts.size(), sizeof(Value));
  Values items;
  items.reserve(parts.size());
  for (std::string_view part : parts) items.push_back(Str(part));
  return Value::List(std::move(items));
}

const std::string& Text1(const char* method, const Value& v) {
  if (v.is_undefined()) FailUndefined(v);
  if (!v.is_string()) Fail("{}() needs a string, not {}", method, TypeName(v));
  return v.str();
}

// The part of `s` that optional arguments start and stop leave, and where it begins.
struct Window {
  std::string_view text;
  int64_t start;
  bool valid;  // start is not past the end
};
Window ApplyWindow(const std::string& s, const Params& p, size_t start_index) {
  if (!p.IsGivenAndNotNone(start_index) && !p.IsGivenAndNotNone(start_index + 1))
    return {s, 0, true};
  const auto length = static_cast<int64_t>(CodePoints(s));
  auto clip = [&](size_t i, int64_t absent) {
    if (!p.IsGivenAndNotNone(i)) return absent;
    const int64_t at = p.IntOr(i, 0);
    return at < 0 ? std::max<int64_t>(at + length, 0) : at;
  };
  const int64_t start = clip(start_index, 0),
                stop = std::min(clip(start_index + 1, length), length);
  if (start > length || start > stop) return {"", start, false};
  return {SubString(s, start, stop - start), start, true};
}

Value StartsOrEndsWith(const std::string& s, const char* name, bool starts, const Args& args) {
  const Params p(name, args, {"prefix", "start", "end"}, 1);
  const Window window = ApplyWindow(s, p, 1);
  auto matches = [&](const Value& v) {
    const std::string& part = Text1(name, v);
    if (!window.valid || window.text.size() < part.size()) return false;
    return (starts ? window.text.substr(0, part.size())
                   : window.text.substr(window.text.size() - part.size())) == part;
  };
  if (!p[0].Is(Kind::kTuple)) return Value::Bool(matches(p[0]));
  const Values& options = p[0].items();
  return Value::Bool(std::any_of(options.begin(), options.end(), matches));
}

Value Find(const std::string& s, const std::string& name, const Args& args) {
  const Params p(name.c_str(), args, {"sub", "start", "end"}, 1);
  const std::string& sub = Text1(name.c_str(), p[0]);
  const Window window = ApplyWindow(s, p, 1);
  const bool from_right = name[0] == 'r';
  const size_t at = !window.valid ? std::string::npos
                    : from_right  ? FindLastText(window.text, sub)
                                  : FindText(window.text, sub);
  if (at == std::string::npos) {
    if (name.ends_with("index")) Fail("{}(): substring not found", name);
    return Value::Int(-1);
  }
  return Value::Int(window.start + static_cast<int64_t>(CodePoints(window.text.substr(0, at))));
}

Value Count(const std::string& s, const Args& args) {
  const Params p("count", args, {"sub", "start", "end"}, 1);
  const std::string& sub = Text1("count", p[0]);
  const Window window = ApplyWindow(s, p, 1);
  if (!window.valid) return Value::Int(0);
  if (sub.empty()) return Value::Int(static_cast<int64_t>(CodePoints(window.text)) + 1);
  return Value::Int(static_cast<int64_t>(Split(window.text, sub, -1).size()) - 1);
}

Value SplitMethod(const std::string& s, const std::string& name, const Args& args) {
  const Params p(name.c_str(), args, {"sep", "maxsplit"});
  const int64_t limit = p.IntOr(1, -1);
  const bool right = name == "rsplit";
  if (!p.IsGivenAndNotNone(0))
    return Strings(right ? SplitSpaceRight(s, limit) : SplitSpace(s, limit));
  const std::string& separator = Text1(name.c_str(), p[0]);
  if (separator.empty()) Fail("{}(): empty separator", name);
  return Strings(right ? SplitRight(s, separator, limit) : Split(s, separator, limit));
}

Value Partition(const std::string& s, const std::string& name, const Args& args) {
  const Params p(name.c_str(), args, {"sep"}, 1);
  const std::string& separator = Text1(name.c_str(), p[0]);
  if (separator.empty()) Fail("{}(): empty separator", name);
  const bool right = name == "rpartition";
  const size_t at = right ? FindLastText(s, separator) : FindText(s, separator);
  if (at == std::string::npos)
    return right ? Value::Tuple({Str(""), Str(""), Str(s)})
                 : Value::Tuple({Str(s), Str(""), Str("")});
  return Value::Tuple({Str(s.substr(0, at)), Str(separator), Str(s.substr(at + separator.size()))});
}

Value StripMethod(const std::string& s, const std::string& name, const Args& args) {
  const Params p(name.c_str(), args, {"chars"});
  const int sides = name == "strip" ? kBoth : name == "lstrip" ? kLeft : kRight;
  if (!p.IsGivenAndNotNone(0)) return Str(Strip(s, sides));
  return Str(Strip(s, sides, Text1(name.c_str(), p[0])));
}

Value Join(const std::string& separator, const Args& args) {
  const Params p("join", args, {"iterable"}, 1);
  Text out;
  bool first = true;
  for (const Value& item : Iterate(p[0])) {
    if (!first) out.Append(separator);
    first = false;
    if (!item.is_string()) Fail("join(): expected strings, found {}", TypeName(item));
    out.Append(item.str());
  }
  return Value::String(out.Take());
}

Value ReplaceMethod(const std::string& s, const Args& args) {
  const Params p("replace", args, {"old", "new", "count"}, 2);
  return Value::String(Replace(s, Text1("replace", p[0]), Text1("replace", p[1]), p.IntOr(2, -1)));
}

Value Justify(const std::string& s, const std::string& name, const Args& args) {
  const Params p(name.c_str(), args, {"width", "fillchar"}, 1);
  const std::string fill = p.Has(1) ? Text1(name.c_str(), p[1]) : " ";
  if (CodePoints(fill) != 1) Fail("{}(): the fill character must be one character", name);
  const int64_t width = p.IntOr(0, 0), pad = width - static_cast<int64_t>(CodePoints(s));
  if (pad <= 0) return Str(s);
  // Python's center() gives the odd space to the left where the width is odd as well.
  const int64_t left = name == "ljust" ? 0 : name == "rjust" ? pad : pad / 2 + (pad & width & 1);
  Text out;
  out.Fill(static_cast<size_t>(left), fill);
  out.Append(s);
  out.Fill(static_cast<size_t>(pad - left), fill);
  return Value::String(out.Take());
}

Value ZeroFill(const std::string& s, const Args& args) {
  const Params p("zfill", args, {"width"}, 1);
  const int64_t pad = p.IntOr(0, 0) - static_cast<int64_t>(CodePoints(s));
  if (pad <= 0) return Str(s);
  const size_t sign = !s.empty() && (s[0] == '-' || s[0] == '+') ? 1 : 0;
  Text out;
  out.Append(std::string_view(s).substr(0, sign));
  out.Fill(static_cast<size_t>(pad), "0");
  out.Append(std::string_view(s).substr(sign));
  return Value::String(out.Take());
}

Value ExpandTabs(const std::string& s, const Args& args) {
  const Params p("expandtabs", args, {"tabsize"});
  const int64_t size = p.IntOr(0, 8);
  Text out;
  int64_t column = 0;
  for (size_t pos = 0; pos < s.size();) {
    const size_t n = CharLength(s, pos);
    if (s[pos] == '\t') {
      if (size > 0) {
        const int64_t pad = size - column % size;
        out.Fill(static_cast<size_t>(pad), " ");
        column += pad;
      }
    } else {
      out.Append(std::string_view(s).substr(pos, n));
      column = s[pos] == '\n' || s[pos] == '\r' ? 0 : column + 1;
    }
    pos += n;
  }
  return Value::String(out.Take());
}

void NoArguments(const std::string& name, const Args& args) { Params(name.c_str(), args, {}); }

constexpr std::pair<std::string_view, CharClass> kCharTests[] = {
    {"isalpha", CharClass::kAlpha},         {"isdigit", CharClass::kDigit},
    {"isdecimal", CharClass::kDecimal},     {"isnumeric", CharClass::kNumeric},
    {"isalnum", CharClass::kAlnum},         {"isspace", CharClass::kSpace},
    {"isprintable", CharClass::kPrintable}, {"isascii", CharClass::kAscii}};

Value StringMethod(const std::string& s, const std::string& name, const Args& args) {
  if (In(name, {"strip", "lstrip", "rstrip"})) return StripMethod(s, name, args);
  if (In(name, {"split", "rsplit"})) return SplitMethod(s, name, args);
  if (name == "startswith") return StartsOrEndsWith(s, "startswith", true, args);
  if (name == "endswith") return StartsOrEndsWith(s, "endswith", false, args);
  if (name == "replace") return ReplaceMethod(s, args);
  if (In(name, {"find", "rfind", "index", "rindex"})) return Find(s, name, args);
  if (name == "count") return Count(s, args);
  if (name == "join") return Join(s, args);
  if (name == "format") return Value::String(BraceFormat(s, args));
  if (In(name, {"partition", "rpartition"})) return Partition(s, name, args);
  if (In(name, {"center", "ljust", "rjust"})) return Justify(s, name, args);
  if (name == "zfill") return ZeroFill(s, args);
  if (name == "expandtabs") return ExpandTabs(s, args);
  if (name == "splitlines") {
    const Params p("splitlines", args, {"keepends"});
    return Strings(SplitLines(s, p.TrueOr(0, false)));
  }
  if (In(name, {"removeprefix", "removesuffix"})) {
    const Params p(name.c_str(), args, {"affix"}, 1);
    const std::string& affix = Text1(name.c_str(), p[0]);
    if (name == "removeprefix") return Str(s.starts_with(affix) ? s.substr(affix.size()) : s);
    return Str(!affix.empty() && s.ends_with(affix) ? s.substr(0, s.size() - affix.size()) : s);
  }
  NoArguments(name, args);
  if (name == "upper") return Value::String(Upper(s));
  if (In(name, {"lower", "casefold"})) return Value::String(Lower(s));
  if (name == "title") return Value::String(TitleCase(s));
  if (name == "capitalize") return Value::String(Capitalize(s));
  if (name == "swapcase") return Value::String(SwapCase(s));
  if (name == "isupper") return Value::Bool(IsUpper(s));
  if (name == "islower") return Value::Bool(IsLower(s));
  for (const auto& [test, char_class] : kCharTests)
    if (name == test) return Value::Bool(AllAre(s, char_class));
  FailUnsupported("the string method {}() is not supported", name);
}

Value MakeView(const Value& dict, ViewObject::Of of) {
  auto view = std::make_shared<ViewObject>();
  view->of = of;
  view->dict = dict;
  return Value(Kind::kView, std::move(view));
}

Value DictMethod(const Value& self, const std::string& name, const Args& args) {
  if (name == "get") {
    const Params p("get", args, {"key", "default"}, 1);
    const Value* found = self.as<DictObject>().Find(p[0]);
    return found ? *found : p.Or(1, Value::None());
  }
  NoArguments(name, args);
  if (name == "items") return MakeView(self, ViewObject::Of::kItems);
  if (name == "keys") return MakeView(self, ViewObject::Of::kKeys);
  if (name == "values") return MakeView(self, ViewObject::Of::kValues);
  if (name == "copy") return self;
  FailUnsupported("the dict method {}() is not supported", name);
}

Value ListMethod(const Value& self, const std::string& name, const Args& args) {
  if (name == "copy") {
    NoArguments(name, args);
    return self;
  }
  const Params p(name.c_str(), args, {"value"}, 1);
  const Values items = Iterate(self);
  if (name == "count")
    return Value::Int(
        std::count_if(items.begin(), items.end(), [&](const Value& v) { return Equal(v, p[0]); }));
  for (size_t i = 0; i < items.size(); ++i)
    if (Equal(items[i], p[0])) return Value::Int(static_cast<int64_t>(i));
  Fail("index(): the value is not in the list");
}

Value LoopMethod(LoopObject& loop, const std::string& name, const Args& args) {
  if (name == "cycle") {
    if (args.pos.empty() || !args.kw.empty()) Fail("cycle() needs items");
    return args.pos[static_cast<size_t>(std::max<int64_t>(loop.index0, 0)) % args.pos.size()];
  }
  Value now = Value::Tuple(args.pos);
  if (loop.changed_called && Equal(loop.last_changed, now)) return Value::Bool(false);
  loop.changed_called = true;
  loop.last_changed = std::move(now);
  return Value::Bool(true);
}

Value CyclerMethod(CyclerObject& cycler, const std::string& name, const Args& args) {
  NoArguments(name, args);
  if (name == "reset") {
    cycler.pos = 0;
    return Value::None();
  }
  Value v = cycler.items[cycler.pos];
  cycler.pos = (cycler.pos + 1) % cycler.items.size();
  return v;
}

bool IsStringMethod(const std::string& name) {
  return In(
      name,
      {"capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
       "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
       "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
       "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
       "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
       "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
       "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
       "swapcase",     "title",       "translate", "upper",      "zfill"});
}

Value Method(const Value& self, const std::string& name) {
  auto method = std::make_shared<MethodObject>();
  method->self = self;
  method->name = name;
  return Value(Kind::kMethod, std::move(method));
}

Value Unsafe(const Value& object, const std::string& name) {
  return Value::Undefined(
      fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, TypeName(object)));
}

Value LoopAttribute(const Value& v, const std::string& name, bool* found) {
  auto& loop = v.as<LoopObject>();
  *found = true;
  if (name == "index") return Value::Int(loop.index0 + 1);
  if (name == "index0") return Value::Int(loop.index0);
  if (name == "first") return Value::Bool(loop.index0 == 0);
  if (name == "last") return Value::Bool(!loop.Peek());
  if (name == "length") return Value::Int(loop.Length());
  if (name == "revindex") return Value::Int(loop.Length() - loop.index0);
  if (name == "revindex0") return Value::Int(loop.Length() - loop.index0 - 1);
  if (name == "depth") return Value::Int(1);
  if (name == "depth0") return Value::Int(0);
  if (name == "previtem")
    return loop.index0 <= 0 ? Value::Undefined("there is no previous item") : loop.previous;
  if (name == "nextitem")
    return loop.Peek() ? loop.after : Value::Undefined("there is no next item");
  if (name == "cycle" || name == "changed") return Method(v, name);
  *found = false;
  return Value();
}

Value MacroAttribute(const MacroObject& macro, const std::string& name, bool* found) {
  *found = true;
  if (name == "name") return Value::String(macro.name);
  if (name == "catch_kwargs") return Value::Bool(macro.def->uses_kwargs);
  if (name == "catch_varargs") return Value::Bool(macro.def->uses_varargs);
  if (name == "caller") return Value::Bool(macro.def->uses_caller);
  if (name == "arguments") {
    Values names;
    for (const Param& param : macro.def->params) names.push_back(Value::String(param.name));
    return Value::Tuple(std::move(names));
  }
  *found = false;
  return Value();
}

}  // namespace

Value FindAttribute(const Value& object, const std::string& name, bool* found) {
  *found = true;
  if (name.starts_with("__") && name.ends_with("__") &&
      In(name, {"__class__", "__doc__", "__init__", "__dict__", "__len__", "__getitem__",
                "__iter__", "__str__", "__repr__"}))
    return Unsafe(object, name);
  switch (object.kind()) {
    case Kind::kString:
      if (IsStringMethod(name)) return Method(object, name);
      break;
    case Kind::kDict:
      if (In(name, {"get", "items", "keys", "values", "copy", "fromkeys"}))
        return Method(object, name);
      if (In(name, {"clear", "pop", "popitem", "setdefault", "update"}))
        return Unsafe(object, name);
      break;
    case Kind::kList:
      if (In(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"}))
        return Unsafe(object, name);
      if (In(name, {"count", "index", "copy"})) return Method(object, name);
      break;
    case Kind::kTuple:
      if (In(name, {"count", "index"})) return Method(object, name);
      break;
    case Kind::kRange: {
      const auto& range = object.as<RangeObject>();
      if (In(name, {"count", "index"})) return Method(object, name);
      if (name == "start") return Value::Int(range.start);
      if (name == "stop") return Value::Int(range.stop);
      if (name == "step") return Value::Int(range.step);
      break;
    }
    case Kind::kNamespace:
      if (const Value* v = object.as<NamespaceObject>().Find(name)) return *v;
      break;
    case Kind::kLoop:
      return LoopAttribute(object, name, found);
    case Kind::kMacro:
      return MacroAttribute(object.as<MacroObject>(), name, found);
    case Kind::kCycler: {
      auto& cycler = object.as<CyclerObject>();
      if (name == "current") return cycler.items[cycler.pos];
      if (name == "next" || name == "reset") return Method(object, name);
      break;
    }
    default:
      break;
  }
  *found = false;
  return Value();
}

Value CallMethod(const Value& self, const std::string& name, const Args& args) {
  switch (self.kind()) {
    case Kind::kString:
      return StringMethod(self.str(), name, args);
    case Kind::kDict:
      return DictMethod(self, name, args);
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
      return ListMethod(self, name, args);
    case Kind::kLoop:
      return LoopMethod(self.as<LoopObject>(), name, args);
    case Kind::kCycler:
      return CyclerMethod(self.as<CyclerObject>(), name, args);
    default:
      Fail("'{}' has no method {}()", TypeName(self), name);
  }
}

}  // namespace lserve::jinja
