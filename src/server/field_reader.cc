#include "server/field_reader.h"

#include <cmath>

namespace lserve {

std::optional<int64_t> AsInteger(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto u = value.get<uint64_t>();
    if (u > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(u);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const double d = value.get<double>();
    if (std::nearbyint(d) == d && std::abs(d) <= 9007199254740992.0) return static_cast<int64_t>(d);
  }
  return std::nullopt;
}

const Json* FieldReader::Find(const char* name) const {
  if (error_) return nullptr;
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void FieldReader::Bool(const char* name, bool* out) {
  const Json* value = Find(name);
  if (!value) return;
  if (!value->is_boolean()) return Bad(name, "must be true or false, not {}", KindName(*value));
  *out = value->get<bool>();
}

void FieldReader::Int64(const char* name, int64_t least, int64_t most, int64_t* out) {
  const Json* value = Find(name);
  if (!value) return;
  const std::optional<int64_t> integer = AsInteger(*value);
  if (!integer) {
    if (value->is_number()) return Bad(name, "{} is not an integer in range", Dump(*value));
    return Bad(name, "must be an integer, not {}", KindName(*value));
  }
  if (*integer < least) return Bad(name, "{} is too small, the least is {}", *integer, least);
  if (*integer > most) return Bad(name, "{} is too large, the limit is {}", *integer, most);
  *out = *integer;
}

void FieldReader::Int(const char* name, int64_t least, int64_t most, int* out) {
  int64_t wide = *out;
  Int64(name, least, most, &wide);
  *out = static_cast<int>(wide);
}

void FieldReader::Int(const char* name, int64_t least, int64_t most, std::optional<int>* out) {
  if (!Find(name)) return;
  int value = 0;
  Int(name, least, most, &value);
  *out = value;
}

void FieldReader::Number(const char* name, double least, double most, double* out) {
  const Json* value = Find(name);
  if (!value) return;
  if (!value->is_number()) return Bad(name, "must be a number, not {}", KindName(*value));
  const double number = value->get<double>();
  if (!(number >= least && number <= most)) {
    return Bad(name, "{} is out of range, it must be between {} and {}", number, least, most);
  }
  *out = number;
}

void FieldReader::String(const char* name, std::string* out) {
  const Json* value = Find(name);
  if (!value) return;
  if (!value->is_string()) return Bad(name, "must be a string, not {}", KindName(*value));
  *out = value->get<std::string>();
}

void FieldReader::TokenIds(const char* name, size_t most, std::vector<int32_t>* out) {
  const Json* value = Find(name);
  if (!value) return;
  if (!value->is_array())
    return Bad(name, "must be an array of token ids, not {}", KindName(*value));
  if (value->size() > most) return Bad(name, "{} token ids, the limit is {}", value->size(), most);
  out->reserve(value->size());
  for (size_t i = 0; i < value->size(); ++i) {
    const std::optional<int64_t> id = AsInteger((*value)[i]);
    if (!id || *id < 0 || *id > INT32_MAX) {
      return Bad(fmt::format("{}[{}]", name, i), "must be a token id, not {}",
                 Dump((*value)[i]).substr(0, 40));
    }
    out->push_back(static_cast<int32_t>(*id));
  }
}

const Json* FieldReader::Object(const char* name) {
  const Json* value = Find(name);
  if (!value) return nullptr;
  if (!value->is_object()) {
    Bad(name, "must be an object, not {}", KindName(*value));
    return nullptr;
  }
  return value;
}

void FieldReader::Unsupported(const char* name, const std::function<bool(const Json&)>& harmless) {
  const Json* value = Find(name);
  if (!value || (harmless && harmless(*value))) return;
  Fail({400, fmt::format("{}{}: not supported by this server", prefix_, name), prefix_ + name,
        "unsupported_parameter"});
}

}  // namespace lserve
