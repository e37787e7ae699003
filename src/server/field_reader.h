// Reads typed fields out of a JSON object and names the field that is wrong. The first error
// sticks; reads after it do nothing, so that a reader of many fields is a list of lines. A field
// that is null counts as absent, as with OpenAI.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/json.h"

namespace lserve {

class FieldReader {
 public:
  // `prefix` goes before field names, e.g. "stream_options.". `object` must be an object and
  // outlive the reader.
  explicit FieldReader(const Json& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  // The field, or null where it is absent, null, or there was an error.
  const Json* Find(const char* name) const;

  // Each leaves *out as it is when the field is absent.
  void Bool(const char* name, bool* out);
  void Int(const char* name, int64_t least, int64_t most, int* out);
  void Int(const char* name, int64_t least, int64_t most, std::optional<int>* out);
  void Int64(const char* name, int64_t least, int64_t most, int64_t* out);
  void Number(const char* name, double least, double most, double* out);
  void String(const char* name, std::string* out);
  // Token ids: an array of at most `most` non-negative integers.
  void TokenIds(const char* name, size_t most, std::vector<int32_t>* out);
  // The field as an object for another reader.
  const Json* Object(const char* name);

  // The field may only be absent, null, or what `harmless` accepts: it would change the answer and
  // is not supported.
  void Unsupported(const char* name, const std::function<bool(const Json&)>& harmless = nullptr);

  void Fail(ApiError error) {
    if (!error_) error_ = std::move(error);
  }
  template <typename... Args>
  void Bad(const std::string& name, fmt::format_string<Args...> format, Args&&... args) {
    Fail(BadField(prefix_ + name, format, std::forward<Args>(args)...));
  }
  bool failed() const { return error_.has_value(); }
  const MaybeError& error() const { return error_; }

 private:
  const Json& object_;
  const std::string prefix_;
  MaybeError error_;
};

// An integer, also where it is written 3.0. Nothing where it is none or does not fit.
std::optional<int64_t> AsInteger(const Json& value);

}  // namespace lserve
