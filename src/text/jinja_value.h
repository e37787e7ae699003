// The values of a template, with Python's semantics. A Value is a small handle: numbers are inside,
// everything else is shared. Strings, lists, tuples and dicts never change once made, so handles
// are copied freely; the few objects with state (loop, namespace, iterators, ...) belong to one
// rendering. All strings are valid UTF-8. Functions here fail by TemplateError.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/jinja_budget.h"

namespace lserve::jinja {

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kRange,     // range(): a sequence without elements
  kView,      // dict.keys(), .values(), .items()
  kIterator,  // what lazy filters return: can be walked once
  kNamespace,
  kLoop,
  kMacro,
  kMethod,  // "a".upper
  kGlobal,  // a global function
  kCycler,
  kJoiner,
};

struct Object {
  virtual ~Object() = default;
};

class Value;
using Values = std::vector<Value>;

class Value {
 public:
  Value() = default;  // an Undefined without a name
  static Value Undefined(std::string message);
  static Value None() { return Value(Kind::kNone); }
  static Value Bool(bool b);
  static Value Int(int64_t i);
  static Value Float(double f);
  static Value String(std::string s);
  static Value List(Values items);
  static Value Tuple(Values items);
  static Value Iterator(Values items);
  Value(Kind kind, std::shared_ptr<Object> object) : kind_(kind), object_(std::move(object)) {}

  Kind kind() const { return kind_; }
  bool Is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_string() const { return kind_ == Kind::kString; }
  // int in Python's sense, so bools too.
  bool is_int() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_int() || kind_ == Kind::kFloat; }
  bool is_list_or_tuple() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }

  bool bool_value() const { return int_ != 0; }
  int64_t int_value() const { return int_; }  // REQUIRES: is_int()
  double float_value() const { return is_int() ? static_cast<double>(int_) : float_; }
  const std::string& str() const;  // REQUIRES: is_string()
  const Values& items() const;     // REQUIRES: list or tuple
  template <typename T>
  T& as() const {
    return static_cast<T&>(*object_);
  }
  const std::shared_ptr<Object>& object() const { return object_; }
  // How deep containers are nested in it; bounded, so that recursion over values is safe.
  int depth() const;

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  Kind kind_ = Kind::kUndefined;
  union {
    int64_t int_ = 0;
    double float_;
  };
  std::shared_ptr<Object> object_;
};

inline constexpr int kMaxValueDepth = 200;

struct UndefinedObject : Object {
  Charge charge{128};
  std::string message;
};

struct StringObject : Object {
  explicit StringObject(std::string s) : charge(s.size() + sizeof(*this)), text(std::move(s)) {}
  Charge charge;
  std::string text;
};

struct ListObject : Object {
  explicit ListObject(Values v);
  Charge charge;
  Values items;
  int depth;
};

struct DictObject : Object {
  using Item = std::pair<Value, Value>;
  explicit DictObject(std::vector<Item> entries);  // keys must differ; use DictBuilder
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  Charge charge;
  std::vector<Item> items;
  std::unordered_multimap<size_t, size_t> index;  // hash -> position; only for large dicts
  int depth = 1;
};

// Collects items; a key that comes again replaces the value and keeps its place, as in Python.
class DictBuilder {
 public:
  void Set(Value key, Value value);
  Value Take();

 private:
  std::vector<DictObject::Item> items_;
  std::unordered_multimap<size_t, size_t> index_;
};

struct RangeObject : Object {
  Charge charge{128};
  int64_t start = 0, stop = 0, step = 1;
  int64_t size() const;
};

struct ViewObject : Object {
  Charge charge{128};
  enum class Of { kKeys, kValues, kItems } of = Of::kKeys;
  Value dict;
};

struct IteratorObject : Object {
  explicit IteratorObject(Values v) : list(std::move(v)) {}
  ListObject list;
  size_t next = 0;
};

// Scopes, macros and namespaces may point at each other; the evaluator unties them at its end.
struct NamespaceObject : Object {
  Charge charge{256};
  std::vector<std::pair<std::string, Value>> vars;
  std::unordered_map<std::string, size_t> index;
  const Value* Find(const std::string& name) const;
  void Set(const std::string& name, Value value);
};

struct LoopObject : Object {
  Charge charge{256};
  Values source;
  size_t next = 0;                           // in source
  std::function<bool(const Value&)> filter;  // the loop's `if`, or empty
  bool has_length = false;
  int64_t length = 0;
  int64_t index0 = -1;
  bool has_after = false;
  Value previous, current, after;
  bool changed_called = false;
  Value last_changed;

  bool Peek();     // is there a next item? It is then in `after`
  bool Advance();  // moves to the next item
  int64_t Length();
};

struct MethodObject : Object {
  Charge charge{128};
  Value self;
  std::string name;
};

enum class Global { kRaiseException, kStrftimeNow, kRange, kDict, kNamespace, kCycler, kJoiner };
struct GlobalObject : Object {
  Global function;
};

struct CyclerObject : Object {
  Charge charge{128};
  Values items;
  size_t pos = 0;
};

struct JoinerObject : Object {
  Charge charge{128};
  Value separator;
  bool used = false;
};

// Arguments of a call.
struct Args {
  Values pos;
  std::vector<std::pair<std::string, Value>> kw;
};

// Arguments matched to parameter names, as a Python function would.
class Params {
 public:
  // The first `required` names must be given.
  Params(const char* function, const Args& args, std::initializer_list<const char*> names,
         size_t required = 0);
  bool Has(size_t i) const { return given_[i]; }
  const Value& operator[](size_t i) const { return values_[i]; }
  Value Or(size_t i, Value fallback) const { return given_[i] ? values_[i] : fallback; }
  int64_t IntOr(size_t i, int64_t fallback) const;
  bool TrueOr(size_t i, bool fallback) const;
  bool IsGivenAndNotNone(size_t i) const { return given_[i] && !values_[i].Is(Kind::kNone); }

 private:
  std::string function_;
  Values values_;
  std::vector<bool> given_;
};

// Python's name of the value's type, for messages.
std::string TypeName(const Value& v);
[[noreturn]] void FailUndefined(const Value& v);

}  // namespace lserve::jinja
