#include "server/json.h"

#include <algorithm>
#include <vector>

namespace lserve {
namespace {

// Builds a Json from nlohmann's SAX events. The library's own builder has no limits.
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary data"); }
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_array() override { return Close(); }

  bool key(string_t& value) override {
    auto& object = open_.back()->get_ref<Json::object_t&>();
    if (object.size() >= limits_.object_keys) {
      return Fail(fmt::format("an object has more than {} keys", limits_.object_keys));
    }
    object.push_back({std::move(value), nullptr});
    return true;
  }

  bool end_object() override {
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : open_.back()->get_ref<const Json::object_t&>()) {
      keys.push_back(key);
    }
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end())
      return Fail(fmt::format("key \"{}\" occurs twice in an object", *twice));
    return Close();
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." without its prefix.
    std::string what = e.what();
    if (const size_t end = what.find("] "); end != std::string::npos) what = what.substr(end + 2);
    return Fail(fmt::format("byte {}: {}", position, what.substr(0, 300)));
  }

  Json& root() { return root_; }
  const std::string& error() const { return error_; }

 private:
  bool Fail(std::string why) {
    error_ = std::move(why);
    return false;
  }

  // Where the next value goes.
  Json* Place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json* top = open_.back();
    if (top->is_array()) {
      top->push_back(std::move(value));
      return &top->back();
    }
    Json& slot = top->get_ref<Json::object_t&>().back().second;
    slot = std::move(value);
    return &slot;
  }

  bool Add(Json value) {
    if (++values_ > limits_.values) return Fail(fmt::format("more than {} values", limits_.values));
    Place(std::move(value));
    return true;
  }

  bool Open(Json value) {
    if (static_cast<int>(open_.size()) >= limits_.depth) {
      return Fail(fmt::format("nested deeper than {} levels", limits_.depth));
    }
    if (++values_ > limits_.values) return Fail(fmt::format("more than {} values", limits_.values));
    open_.push_back(Place(std::move(value)));
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  const JsonLimits limits_;
  Json root_;
  // The open arrays and objects; only the innermost grows, so the pointers of the others stay good.
  std::vector<Json*> open_;
  size_t values_ = 0;
  std::string error_;
};

}  // namespace

Result<Json> ParseJson(std::string_view text, const JsonLimits& limits) {
  Builder builder(limits);
  bool ok = false;
  try {
    ok = Json::sax_parse(text.begin(), text.end(), &builder);
  } catch (const std::exception& e) {
    return InvalidArgument("JSON: {}", e.what());
  }
  if (!ok) return InvalidArgument("JSON: {}", builder.error());
  return std::move(builder.root());
}

std::string Dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const char* KindName(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number_integer()) return "an integer";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  return value.is_array() ? "an array" : "an object";
}

}  // namespace lserve
