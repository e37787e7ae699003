// Length, iteration, indexing and slicing of template values.
#include <algorithm>

#include "text/jinja_ops.h"
#include "text/jinja_print.h"
#include "text/jinja_text.h"

namespace lserve::jinja {
namespace {

// Python's slice.indices(): the positions that start:stop:step visits in a sequence of `length`.
struct SliceRange {
  int64_t start, step, count;
};

SliceRange ResolveSlice(int64_t length, const Value& start, const Value& stop, const Value& step) {
  auto index = [](const Value& v, int64_t absent) {
    if (v.Is(Kind::kNone)) return absent;
    if (v.is_undefined()) FailUndefined(v);
    if (!v.is_int()) Fail("slice indices must be integers or none, not {}", TypeName(v));
    return v.int_value();
  };
  const int64_t by = index(step, 1);
  if (by == 0) Fail("slice step cannot be zero");
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? length : length - 1;
  auto clip = [&](int64_t i) {
    if (i < 0) i = i < -length ? low : i + length;
    return std::clamp(i, low, std::max(low, high));
  };
  const int64_t from = start.Is(Kind::kNone) ? (by > 0 ? 0 : length - 1) : clip(index(start, 0));
  const int64_t to = stop.Is(Kind::kNone) ? (by > 0 ? length : -1) : clip(index(stop, 0));
  int64_t count = 0;
  if (by > 0 && from < to) count = (to - from - 1) / by + 1;
  if (by < 0 && from > to) count = (from - to - 1) / -std::max(by, -INT64_MAX) + 1;
  return {from, by, count};
}

// The element at `index` (negative: from the end) of a sequence of `length`, or -1.
int64_t Position(int64_t index, int64_t length) {
  if (index < 0) index += length;
  return index < 0 || index >= length ? -1 : index;
}

Value Missing(const Value& object, const Value& key) {
  if (key.is_string())
    return Value::Undefined(fmt::format("'{}' has no attribute {}", TypeName(object), Repr(key)));
  return Value::Undefined(fmt::format("'{}' has no element {}", TypeName(object), Repr(key)));
}

// obj[key] of Python; false where Python would raise a TypeError or LookupError.
bool Subscript(const Value& object, const Value& key, Value* out) {
  switch (object.kind()) {
    case Kind::kUndefined:
      FailUndefined(object);
    case Kind::kDict: {
      if (key.is_list_or_tuple() && key.Is(Kind::kList)) return false;
      if (key.Is(Kind::kDict)) return false;
      const Value* value = object.as<DictObject>().Find(key);
      if (value) *out = *value;
      return value != nullptr;
    }
    case Kind::kString: {
      if (!key.is_int()) return false;
      const int64_t length = static_cast<int64_t>(CodePoints(object.str()));
      const int64_t at = Position(key.int_value(), length);
      if (at < 0) return false;
      *out = Value::String(std::string(SubString(object.str(), at, 1)));
      return true;
    }
    case Kind::kList:
    case Kind::kTuple: {
      if (!key.is_int()) return false;
      const int64_t at = Position(key.int_value(), static_cast<int64_t>(object.items().size()));
      if (at >= 0) *out = object.items()[at];
      return at >= 0;
    }
    case Kind::kRange: {
      if (!key.is_int()) return false;
      const auto& range = object.as<RangeObject>();
      const int64_t at = Position(key.int_value(), range.size());
      if (at >= 0) *out = Value::Int(range.start + at * range.step);
      return at >= 0;
    }
    default:
      return false;
  }
}

}  // namespace

int64_t Length(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return static_cast<int64_t>(CodePoints(v.str()));
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(v.items().size());
    case Kind::kDict:
      return static_cast<int64_t>(v.as<DictObject>().items.size());
    case Kind::kRange:
      return v.as<RangeObject>().size();
    case Kind::kView:
      return Length(v.as<ViewObject>().dict);
    case Kind::kLoop:
      return v.as<LoopObject>().Length();
    default:
      Fail("object of type '{}' has no length", TypeName(v));
  }
}

bool IsIterable(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange:
    case Kind::kView:
    case Kind::kIterator:
    case Kind::kLoop:
      return true;
    default:
      return false;
  }
}

Values Iterate(const Value& v) {
  Values out;
  auto reserve = [&](size_t count) {
    CheckedProduct(count, sizeof(Value));
    Work(16 * count);
    out.reserve(count);
  };
  switch (v.kind()) {
    case Kind::kUndefined:
      return out;
    case Kind::kString: {
      const std::string& s = v.str();
      reserve(CodePoints(s));
      for (size_t pos = 0; pos < s.size();) {
        const size_t n = CharLength(s, pos);
        out.push_back(Value::String(s.substr(pos, n)));
        pos += n;
      }
      return out;
    }
    case Kind::kList:
    case Kind::kTuple:
      reserve(v.items().size());
      out = v.items();
      return out;
    case Kind::kDict:
      reserve(v.as<DictObject>().items.size());
      for (const auto& item : v.as<DictObject>().items) out.push_back(item.first);
      return out;
    case Kind::kRange: {
      const auto& range = v.as<RangeObject>();
      reserve(static_cast<size_t>(range.size()));
      for (int64_t i = 0; i < range.size(); ++i)
        out.push_back(Value::Int(range.start + i * range.step));
      return out;
    }
    case Kind::kView: {
      const auto& view = v.as<ViewObject>();
      const auto& items = view.dict.as<DictObject>().items;
      reserve(items.size());
      for (const auto& [key, value] : items) {
        if (view.of == ViewObject::Of::kItems)
          out.push_back(Value::Tuple({key, value}));
        else
          out.push_back(view.of == ViewObject::Of::kKeys ? key : value);
      }
      return out;
    }
    case Kind::kIterator: {
      auto& iterator = v.as<IteratorObject>();
      const Values& items = iterator.list.items;
      reserve(items.size() - iterator.next);
      out.assign(items.begin() + static_cast<int64_t>(iterator.next), items.end());
      iterator.next = items.size();
      return out;
    }
    case Kind::kLoop: {
      auto& loop = v.as<LoopObject>();
      while (loop.Advance()) out.push_back(Value::Tuple({loop.current, v}));
      return out;
    }
    default:
      Fail("'{}' is not iterable", TypeName(v));
  }
}

Value GetItem(const Value& object, const Value& key) {
  Value out;
  if (Subscript(object, key, &out)) return out;
  if (key.is_string()) {
    bool found = false;
    out = FindAttribute(object, key.str(), &found);
    if (found) return out;
  }
  return Missing(object, key);
}

Value GetAttr(const Value& object, const std::string& name) {
  if (object.is_undefined()) FailUndefined(object);
  bool found = false;
  Value out = FindAttribute(object, name, &found);
  if (found) return out;
  if (object.Is(Kind::kDict)) {
    const Value* value = object.as<DictObject>().Find(std::string_view(name));
    if (value) return *value;
  }
  return Missing(object, Value::String(name));
}

Value GetSlice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) FailUndefined(object);
  if (object.is_string()) {
    const std::string& s = object.str();
    const auto range = ResolveSlice(static_cast<int64_t>(CodePoints(s)), start, stop, step);
    if (range.step == 1) return Value::String(std::string(SubString(s, range.start, range.count)));
    const std::vector<size_t> starts = CharStarts(s);
    Text out;
    for (int64_t i = 0, at = range.start; i < range.count; ++i, at += range.step)
      out.Append(std::string_view(s).substr(starts[at], starts[at + 1] - starts[at]));
    return Value::String(out.Take());
  }
  if (object.is_list_or_tuple()) {
    const Values& items = object.items();
    const auto range = ResolveSlice(static_cast<int64_t>(items.size()), start, stop, step);
    Values out;
    out.reserve(static_cast<size_t>(range.count));
    for (int64_t i = 0, at = range.start; i < range.count; ++i, at += range.step)
      out.push_back(items[at]);
    return Value(object.kind(), std::make_shared<ListObject>(std::move(out)));
  }
  if (object.Is(Kind::kRange)) {
    const auto& from = object.as<RangeObject>();
    const auto range = ResolveSlice(from.size(), start, stop, step);
    auto out = std::make_shared<RangeObject>();
    out->start = from.start + range.start * from.step;
    out->step = from.step * (range.count > 1 ? range.step : 1);
    out->stop = out->start + range.count * out->step;
    return Value(Kind::kRange, std::move(out));
  }
  Fail("'{}' cannot be sliced", TypeName(object));
}

}  // namespace lserve::jinja
