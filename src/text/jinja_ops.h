// Python's operators on template values: truth, equality, order, arithmetic, membership, indexing,
// iteration. Pure but for iterators, which are used up.
#pragma once

#include <string>

#include "text/jinja_value.h"

namespace lserve::jinja {

bool Truth(const Value& v);
bool Equal(const Value& a, const Value& b);
size_t Hash(const Value& v);  // fails for what Python calls unhashable
// Negative, 0, positive; fails for types that Python does not order. NaN compares as neither: see
// Less.
bool Less(const Value& a, const Value& b);
bool LessOrEqual(const Value& a, const Value& b);
bool Contains(const Value& container, const Value& item);

enum class Op : uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn,
};
Value Arithmetic(Op op, const Value& a, const Value& b);
bool CompareOp(Op op, const Value& a, const Value& b);
Value Negate(const Value& v);
Value Plus(const Value& v);

// len(); fails where Python has none.
int64_t Length(const Value& v);
bool IsIterable(const Value& v);
// All elements; uses up an iterator. Fails for what cannot be iterated.
Values Iterate(const Value& v);

// obj[key], obj.name: an Undefined where there is nothing.
Value GetItem(const Value& object, const Value& key);
Value GetAttr(const Value& object, const std::string& name);
Value GetSlice(const Value& object, const Value& start, const Value& stop, const Value& step);

// jinja_methods.cc. The method or attribute of the value's own type, or nullptr kind Undefined with
// `found` false.
Value FindAttribute(const Value& object, const std::string& name, bool* found);
Value CallMethod(const Value& self, const std::string& name, const Args& args);

}  // namespace lserve::jinja
