#include "text/jinja_value.h"

#include <algorithm>

#include "text/jinja_ops.h"

namespace lserve::jinja {
namespace {

// Dicts up to this size are searched from front to back.
constexpr size_t kLinearSearch = 8;

int MaxDepth(const Values& items) {
  int depth = 0;
  for (const Value& v : items) depth = std::max(depth, v.depth());
  return depth;
}

void CheckDepth(int depth) {
  if (depth > kMaxValueDepth) FailLimit("values are nested more than {} deep", kMaxValueDepth);
}

template <typename Index>
const size_t* FindIn(const Index& index, const std::vector<DictObject::Item>& items, size_t hash,
                     const Value& key) {
  auto [from, to] = index.equal_range(hash);
  for (; from != to; ++from) {
    Work(1);
    if (Equal(items[from->second].first, key)) return &from->second;
  }
  return nullptr;
}

}  // namespace

Value Value::Undefined(std::string message) {
  auto object = std::make_shared<UndefinedObject>();
  object->message = std::move(message);
  return Value(Kind::kUndefined, std::move(object));
}

Value Value::Bool(bool b) {
  Value v(Kind::kBool);
  v.int_ = b;
  return v;
}

Value Value::Int(int64_t i) {
  Value v(Kind::kInt);
  v.int_ = i;
  return v;
}

Value Value::Float(double f) {
  Value v(Kind::kFloat);
  v.float_ = f;
  return v;
}

Value Value::String(std::string s) {
  return Value(Kind::kString, std::make_shared<StringObject>(std::move(s)));
}
Value Value::List(Values items) {
  return Value(Kind::kList, std::make_shared<ListObject>(std::move(items)));
}
Value Value::Tuple(Values items) {
  return Value(Kind::kTuple, std::make_shared<ListObject>(std::move(items)));
}
Value Value::Iterator(Values items) {
  return Value(Kind::kIterator, std::make_shared<IteratorObject>(std::move(items)));
}

const std::string& Value::str() const {
  CHECK(is_string());
  return as<StringObject>().text;
}

const Values& Value::items() const {
  CHECK(is_list_or_tuple());
  return as<ListObject>().items;
}

int Value::depth() const {
  switch (kind_) {
    case Kind::kList:
    case Kind::kTuple:
      return as<ListObject>().depth;
    case Kind::kDict:
      return as<DictObject>().depth;
    case Kind::kIterator:
      return as<IteratorObject>().list.depth + 1;
    case Kind::kView:
      return as<ViewObject>().dict.depth() + 1;
    case Kind::kMethod:
      return as<MethodObject>().self.depth() + 1;
    case Kind::kCycler:
      return MaxDepth(as<CyclerObject>().items) + 1;
    case Kind::kJoiner:
      return as<JoinerObject>().separator.depth() + 1;
    case Kind::kLoop: {
      const LoopObject& loop = as<LoopObject>();
      return std::max(MaxDepth(loop.source), loop.last_changed.depth()) + 1;
    }
    default:
      return 0;
  }
}

ListObject::ListObject(Values v)
    : charge(sizeof(*this) + v.size() * sizeof(Value)),
      items(std::move(v)),
      depth(MaxDepth(items) + 1) {
  Work(items.size());
  CheckDepth(depth);
}

DictObject::DictObject(std::vector<Item> entries)
    : charge(sizeof(*this) + entries.size() * (sizeof(Item) + 48)), items(std::move(entries)) {
  Work(items.size());
  for (const auto& [key, value] : items)
    depth = std::max({depth, key.depth() + 1, value.depth() + 1});
  CheckDepth(depth);
}

const Value* DictObject::Find(const Value& key) const {
  const size_t hash = Hash(key);
  if (items.size() > kLinearSearch) {
    const size_t* at = FindIn(index, items, hash, key);
    return at ? &items[*at].second : nullptr;
  }
  for (const Item& item : items)
    if (Equal(item.first, key)) return &item.second;
  return nullptr;
}

const Value* DictObject::Find(std::string_view key) const {
  if (items.size() > kLinearSearch) return Find(Value::String(std::string(key)));
  for (const Item& item : items)
    if (item.first.is_string() && item.first.str() == key) return &item.second;
  return nullptr;
}

void DictBuilder::Set(Value key, Value value) {
  const size_t hash = Hash(key);
  if (const size_t* at = FindIn(index_, items_, hash, key)) {
    items_[*at].second = std::move(value);
    return;
  }
  index_.emplace(hash, items_.size());
  items_.emplace_back(std::move(key), std::move(value));
}

Value DictBuilder::Take() {
  const bool large = items_.size() > kLinearSearch;
  auto dict = std::make_shared<DictObject>(std::move(items_));
  if (large) dict->index = std::move(index_);
  return Value(Kind::kDict, std::move(dict));
}

int64_t RangeObject::size() const {
  if (step > 0)
    return start >= stop
               ? 0
               : static_cast<int64_t>((static_cast<uint64_t>(stop) - start - 1) / step + 1);
  return start <= stop ? 0
                       : static_cast<int64_t>((static_cast<uint64_t>(start) - stop - 1) /
                                                  (0 - static_cast<uint64_t>(step)) +
                                              1);
}

const Value* NamespaceObject::Find(const std::string& name) const {
  auto it = index.find(name);
  return it == index.end() ? nullptr : &vars[it->second].second;
}

void NamespaceObject::Set(const std::string& name, Value value) {
  auto [it, is_new] = index.emplace(name, vars.size());
  if (is_new)
    vars.emplace_back(name, std::move(value));
  else
    vars[it->second].second = std::move(value);
}

bool LoopObject::Peek() {
  while (!has_after && next < source.size()) {
    const Value& item = source[next++];
    if (filter && !filter(item)) continue;
    after = item;
    has_after = true;
  }
  return has_after;
}

bool LoopObject::Advance() {
  if (!Peek()) return false;
  previous = std::move(current);
  current = std::move(after);
  has_after = false;
  ++index0;
  return true;
}

int64_t LoopObject::Length() {
  if (has_length) return length;
  if (!filter) {
    length = static_cast<int64_t>(source.size());
  } else {
    // As Jinja2 counts: what is left is filtered now.
    Values rest;
    for (; next < source.size(); ++next)
      if (filter(source[next])) rest.push_back(source[next]);
    length = static_cast<int64_t>(rest.size()) + index0 + 1 + (has_after ? 1 : 0);
    source = std::move(rest);
    next = 0;
    filter = nullptr;
  }
  has_length = true;
  return length;
}

Params::Params(const char* function, const Args& args, std::initializer_list<const char*> names,
               size_t required)
    : function_(function), values_(names.size()), given_(names.size()) {
  if (args.pos.size() > names.size())
    Fail("{}() takes at most {} arguments, {} were given", function, names.size(), args.pos.size());
  for (size_t i = 0; i < args.pos.size(); ++i) {
    values_[i] = args.pos[i];
    given_[i] = true;
  }
  for (const auto& [name, value] : args.kw) {
    size_t i = 0;
    for (; i < names.size(); ++i)
      if (name == names.begin()[i]) break;
    if (i == names.size()) Fail("{}() has no argument '{}'", function, name);
    if (given_[i]) Fail("{}() got argument '{}' twice", function, name);
    values_[i] = value;
    given_[i] = true;
  }
  for (size_t i = 0; i < required; ++i)
    if (!given_[i]) Fail("{}() needs argument '{}'", function, names.begin()[i]);
}

int64_t Params::IntOr(size_t i, int64_t fallback) const {
  if (!given_[i]) return fallback;
  if (values_[i].is_undefined()) FailUndefined(values_[i]);
  if (!values_[i].is_int()) Fail("{}() needs an integer, not {}", function_, TypeName(values_[i]));
  return values_[i].int_value();
}

bool Params::TrueOr(size_t i, bool fallback) const {
  return given_[i] ? Truth(values_[i]) : fallback;
}

std::string TypeName(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kRange:
      return "range";
    case Kind::kView:
      return "dict view";
    case Kind::kIterator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kMacro:
      return "Macro";
    case Kind::kMethod:
      return "method";
    case Kind::kGlobal:
      return "function";
    case Kind::kCycler:
      return "Cycler";
    case Kind::kJoiner:
      return "Joiner";
  }
  return "object";
}

void FailUndefined(const Value& v) {
  if (!v.object()) Fail("a value is undefined");
  Fail("{}", v.as<UndefinedObject>().message);
}

}  // namespace lserve::jinja
