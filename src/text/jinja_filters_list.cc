// Filters on sequences and mappings, and the way to all filters.
#include <algorithm>
#include <unordered_map>

#include "text/jinja_filters.h"
#include "text/jinja_ops.h"
#include "text/jinja_text.h"

namespace lserve::jinja {
namespace {

// What `attribute=` of many filters means: "a.b.0" walks down, a number indexes.
class Attribute {
 public:
  explicit Attribute(const Value& v) {
    if (!v.is_string()) {
      if (!v.Is(Kind::kNone)) path_.push_back(v);
      return;
    }
    for (std::string_view part : Split(v.str(), ".", -1)) {
      const bool digits =
          !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == part.npos;
      path_.push_back(digits ? Value::Int(std::stoll(std::string(part)))
                             : Value::String(std::string(part)));
    }
  }
  Value Get(Value item) const {
    for (const Value& key : path_) {
      Step();
      item = GetItem(item, key);
    }
    return item;
  }

 private:
  Values path_;
};

Value FoldCase(const Value& v) { return v.is_string() ? Value::String(Lower(v.str())) : v; }

// The key by which filters compare items: their attribute, letters folded unless case counts.
Value KeyOf(const Value& item, const Attribute& attribute, bool case_sensitive) {
  Value key = attribute.Get(item);
  return case_sensitive ? key : FoldCase(key);
}

// Stable sort that may fail half way: keys first, so that comparisons only read.
std::vector<size_t> SortedOrder(const Values& keys, bool reverse) {
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  // A merge sort of its own: std::sort may run out of bounds where the order is inconsistent.
  std::vector<size_t> from, to(order.size());
  for (size_t width = 1; width < order.size(); width *= 2) {
    from = order;
    for (size_t begin = 0; begin < from.size(); begin += 2 * width) {
      size_t left = begin, right = std::min(begin + width, from.size());
      const size_t middle = right, end = std::min(begin + 2 * width, from.size());
      for (size_t out = begin; out < end; ++out) {
        Work(16);
        bool take_right = left >= middle;
        if (!take_right && right < end) {
          const Value &a = keys[from[left]], &b = keys[from[right]];
          take_right = reverse ? Less(a, b) : Less(b, a);
        }
        order[out] = take_right ? from[right++] : from[left++];
      }
    }
  }
  return order;
}

Values Reorder(const Values& items, const std::vector<size_t>& order) {
  Values out;
  out.reserve(items.size());
  for (size_t i : order) out.push_back(items[i]);
  return out;
}

Value LengthFilter(const Value& v, const Args& args) {
  Params("length", args, {});
  return Value::Int(Length(v));
}

Value DefaultFilter(const Value& v, const Args& args) {
  const Params p("default", args, {"default_value", "boolean"});
  if (v.is_undefined() || (p.TrueOr(1, false) && !Truth(v))) return p.Or(0, Value::String(""));
  return v;
}

Value FirstFilter(const Value& v, const Args& args) {
  Params("first", args, {});
  const Values items = Iterate(v);
  return items.empty() ? Value::Undefined("No first item, sequence was empty.") : items.front();
}

void CheckReversible(const char* name, const Value& v) {
  if (v.Is(Kind::kIterator) || v.Is(Kind::kLoop))
    Fail("{}(): '{}' cannot be reversed", name, TypeName(v));
}

Value LastFilter(const Value& v, const Args& args) {
  Params("last", args, {});
  CheckReversible("last", v);
  const Values items = Iterate(v);
  return items.empty() ? Value::Undefined("No last item, sequence was empty.") : items.back();
}

Value ListFilter(const Value& v, const Args& args) {
  Params("list", args, {});
  return Value::List(Iterate(v));
}

Value ReverseFilter(const Value& v, const Args& args) {
  Params("reverse", args, {});
  Values items = Iterate(v);
  std::reverse(items.begin(), items.end());
  if (v.is_string()) {
    Text out;
    for (const Value& c : items) out.Append(c.str());
    return Value::String(out.Take());
  }
  // What Python cannot reverse in place becomes a list, the rest an iterator.
  if (v.Is(Kind::kIterator) || v.Is(Kind::kLoop)) return Value::List(std::move(items));
  return Value::Iterator(std::move(items));
}

Value ItemsFilter(const Value& v, const Args& args) {
  Params("items", args, {});
  if (v.is_undefined()) return Value::Iterator({});
  if (!v.Is(Kind::kDict)) Fail("items() needs a mapping, not {}", TypeName(v));
  return Value::Iterator(Iterate(CallMethod(v, "items", {})));
}

Value DictSortFilter(const Value& v, const Args& args) {
  const Params p("dictsort", args, {"case_sensitive", "by", "reverse"});
  const bool by_value = p.Has(1) && p[1].is_string() && p[1].str() == "value";
  if (p.Has(1) && !by_value && !(p[1].is_string() && p[1].str() == "key"))
    Fail("dictsort() sorts by 'key' or 'value'");
  if (v.is_undefined()) FailUndefined(v);
  if (!v.Is(Kind::kDict)) Fail("dictsort() needs a mapping, not {}", TypeName(v));
  const Values items = Iterate(CallMethod(v, "items", {}));
  Values keys;
  for (const Value& item : items) {
    const Value& key = item.items()[by_value ? 1 : 0];
    keys.push_back(p.TrueOr(0, false) ? key : FoldCase(key));
  }
  return Value::List(Reorder(items, SortedOrder(keys, p.TrueOr(2, false))));
}

Value SortFilter(const Value& v, const Args& args) {
  const Params p("sort", args, {"reverse", "case_sensitive", "attribute"});
  const bool case_sensitive = p.TrueOr(1, false);
  std::vector<Attribute> attributes;
  if (p.Has(2) && p[2].is_string()) {
    for (std::string_view part : Split(p[2].str(), ",", -1))
      attributes.emplace_back(Value::String(std::string(part)));
  } else {
    attributes.emplace_back(p.Or(2, Value::None()));
  }
  const Values items = Iterate(v);
  Values keys;
  for (const Value& item : items) {
    Values parts;
    for (const Attribute& a : attributes) parts.push_back(KeyOf(item, a, case_sensitive));
    keys.push_back(Value::List(std::move(parts)));
  }
  return Value::List(Reorder(items, SortedOrder(keys, p.TrueOr(0, false))));
}

Value UniqueFilter(const Value& v, const Args& args) {
  const Params p("unique", args, {"case_sensitive", "attribute"});
  const Attribute attribute(p.Or(1, Value::None()));
  std::unordered_multimap<size_t, Value> seen;
  Values out;
  for (const Value& item : Iterate(v)) {
    Value key = KeyOf(item, attribute, p.TrueOr(0, false));
    const size_t hash = Hash(key);
    auto [from, to] = seen.equal_range(hash);
    if (std::any_of(from, to, [&](const auto& other) { return Equal(other.second, key); }))
      continue;
    seen.emplace(hash, std::move(key));
    out.push_back(item);
  }
  return Value::Iterator(std::move(out));
}

Value Extreme(const char* name, const Value& v, const Args& args, bool maximum) {
  const Params p(name, args, {"case_sensitive", "attribute"});
  const Attribute attribute(p.Or(1, Value::None()));
  const Values items = Iterate(v);
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  size_t best = 0;
  Value best_key = KeyOf(items[0], attribute, p.TrueOr(0, false));
  for (size_t i = 1; i < items.size(); ++i) {
    Value key = KeyOf(items[i], attribute, p.TrueOr(0, false));
    if (!(maximum ? Less(best_key, key) : Less(key, best_key))) continue;
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}
Value MinFilter(const Value& v, const Args& args) { return Extreme("min", v, args, false); }
Value MaxFilter(const Value& v, const Args& args) { return Extreme("max", v, args, true); }

Value SumFilter(const Value& v, const Args& args) {
  const Params p("sum", args, {"attribute", "start"});
  const Attribute attribute(p.Or(0, Value::None()));
  Value total = p.Or(1, Value::Int(0));
  if (total.is_string()) Fail("sum() does not add strings");
  for (const Value& item : Iterate(v)) total = Arithmetic(Op::kAdd, total, attribute.Get(item));
  return total;
}

Value MapFilter(const Value& v, const Args& args) {
  Values out;
  if (!Truth(v)) return Value::Iterator({});
  if (args.pos.empty()) {
    const Params p("map", args, {"attribute", "default"}, 1);
    const Attribute attribute(p[0]);
    for (const Value& item : Iterate(v)) {
      Value mapped = attribute.Get(item);
      out.push_back(mapped.is_undefined() && p.IsGivenAndNotNone(1) ? p[1] : std::move(mapped));
    }
    return Value::Iterator(std::move(out));
  }
  if (!args.pos[0].is_string()) Fail("map() needs the name of a filter");
  Args rest;
  rest.pos.assign(args.pos.begin() + 1, args.pos.end());
  rest.kw = args.kw;
  for (const Value& item : Iterate(v)) {
    Step();
    out.push_back(CallFilter(args.pos[0].str(), item, rest));
  }
  return Value::Iterator(std::move(out));
}

// select, reject (by the item) and selectattr, rejectattr (by an attribute of it).
Value Select(const char* name, const Value& v, const Args& args, bool by_attribute, bool keep) {
  const size_t first = by_attribute ? 1 : 0;
  if (!Truth(v)) return Value::Iterator({});
  if (args.pos.size() < first) Fail("{}() needs the name of an attribute", name);
  const Attribute attribute(by_attribute ? args.pos[0] : Value::None());
  Args rest;
  rest.kw = args.kw;
  const bool has_test = args.pos.size() > first;
  if (has_test) {
    if (!args.pos[first].is_string()) Fail("{}() needs the name of a test", name);
    rest.pos.assign(args.pos.begin() + static_cast<int64_t>(first) + 1, args.pos.end());
  }
  Values out;
  for (const Value& item : Iterate(v)) {
    Step();
    const Value tested = attribute.Get(item);
    const bool passes = has_test ? CallTest(args.pos[first].str(), tested, rest) : Truth(tested);
    if (passes == keep) out.push_back(item);
  }
  return Value::Iterator(std::move(out));
}
Value SelectFilter(const Value& v, const Args& a) { return Select("select", v, a, false, true); }
Value RejectFilter(const Value& v, const Args& a) { return Select("reject", v, a, false, false); }
Value SelectAttrFilter(const Value& v, const Args& a) {
  return Select("selectattr", v, a, true, true);
}
Value RejectAttrFilter(const Value& v, const Args& a) {
  return Select("rejectattr", v, a, true, false);
}

Value GroupByFilter(const Value& v, const Args& args) {
  const Params p("groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  const Attribute attribute(p[0]);
  const bool case_sensitive = p.TrueOr(2, false);
  auto get = [&](const Value& item) {
    Value key = attribute.Get(item);
    return key.is_undefined() && p.IsGivenAndNotNone(1) ? p[1] : key;
  };
  const Values items = Iterate(v);
  Values keys;
  for (const Value& item : items) keys.push_back(case_sensitive ? get(item) : FoldCase(get(item)));
  const std::vector<size_t> order = SortedOrder(keys, false);
  Values out;
  for (size_t i = 0; i < order.size();) {
    Values group;
    const size_t first = order[i];
    for (; i < order.size() && Equal(keys[order[i]], keys[first]); ++i)
      group.push_back(items[order[i]]);
    if (group.empty()) group.push_back(items[order[i++]]);  // a key that does not equal itself
    out.push_back(Value::Tuple({get(items[first]), Value::List(std::move(group))}));
  }
  return Value::List(std::move(out));
}

Value BatchFilter(const Value& v, const Args& args) {
  const Params p("batch", args, {"linecount", "fill_with"}, 1);
  const int64_t count = p.IntOr(0, 1);
  Values out, line;
  for (const Value& item : Iterate(v)) {
    if (static_cast<int64_t>(line.size()) == count) {
      out.push_back(Value::List(std::move(line)));
      line.clear();
    }
    line.push_back(item);
  }
  if (!line.empty()) {
    if (p.IsGivenAndNotNone(1) && static_cast<int64_t>(line.size()) < count) {
      Work(CheckedProduct(static_cast<size_t>(count), sizeof(Value)));
      line.resize(static_cast<size_t>(count), p[1]);
    }
    out.push_back(Value::List(std::move(line)));
  }
  return Value::Iterator(std::move(out));
}

Value SliceFilter(const Value& v, const Args& args) {
  const Params p("slice", args, {"slices", "fill_with"}, 1);
  const Values items = Iterate(v);
  const int64_t slices = p.IntOr(0, 1), length = static_cast<int64_t>(items.size());
  if (slices == 0) Fail("division by zero");
  if (slices > 0) Work(CheckedProduct(static_cast<size_t>(slices), sizeof(Value)));
  Values out;
  for (int64_t i = 0, at = 0; i < slices; ++i) {
    const bool extra = i < length % slices;
    const int64_t end = at + length / slices + (extra ? 1 : 0);
    Values part(items.begin() + at, items.begin() + end);
    if (p.IsGivenAndNotNone(1) && !extra) part.push_back(p[1]);
    out.push_back(Value::List(std::move(part)));
    at = end;
  }
  return Value::Iterator(std::move(out));
}

Value AttrFilter(const Value& v, const Args& args) {
  const Params p("attr", args, {"name"}, 1);
  if (!p[0].is_string()) Fail("attr() needs a name");
  if (v.is_undefined()) FailUndefined(v);
  bool found = false;
  Value attribute = FindAttribute(v, p[0].str(), &found);
  return found
             ? attribute
             : Value::Undefined(fmt::format("'{}' has no attribute '{}'", TypeName(v), p[0].str()));
}

}  // namespace

FilterFunction FindListFilter(const std::string& name) {
  static const std::unordered_map<std::string, FilterFunction> kFilters = {
      {"length", LengthFilter},
      {"count", LengthFilter},
      {"default", DefaultFilter},
      {"d", DefaultFilter},
      {"first", FirstFilter},
      {"last", LastFilter},
      {"list", ListFilter},
      {"reverse", ReverseFilter},
      {"items", ItemsFilter},
      {"dictsort", DictSortFilter},
      {"sort", SortFilter},
      {"unique", UniqueFilter},
      {"min", MinFilter},
      {"max", MaxFilter},
      {"sum", SumFilter},
      {"map", MapFilter},
      {"select", SelectFilter},
      {"reject", RejectFilter},
      {"selectattr", SelectAttrFilter},
      {"rejectattr", RejectAttrFilter},
      {"groupby", GroupByFilter},
      {"batch", BatchFilter},
      {"slice", SliceFilter},
      {"attr", AttrFilter}};
  auto it = kFilters.find(name);
  return it == kFilters.end() ? nullptr : it->second;
}

FilterFunction FindFilter(const std::string& name) {
  for (auto find : {FindListFilter, FindTextFilter, FindNumberFilter})
    if (FilterFunction f = find(name)) return f;
  return nullptr;
}

Value CallFilter(const std::string& name, const Value& value, const Args& args) {
  const FilterFunction f = FindFilter(name);
  if (!f) Fail("no filter named '{}'", name);
  // Filters call filters (map), tests and each other.
  DepthGuard depth;
  return f(value, args);
}

}  // namespace lserve::jinja
