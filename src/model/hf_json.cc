#include "model/hf_json.h"

#include <set>
#include <vector>

namespace lserve {

using nlohmann::json;

Result<json> ParseJsonObject(std::string_view text, const std::string& file, int max_depth) {
  Status error;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    using Event = json::parse_event_t;
    if (!error.ok()) return false;  // dropped values do not report their ends
    if ((event == Event::object_start || event == Event::array_start) && depth >= max_depth) {
      error = InvalidArgument("{}: nested deeper than {}", file, max_depth);
    } else if (event == Event::object_start) {
      keys.emplace_back();
    } else if (event == Event::object_end) {
      keys.pop_back();
    } else if (event == Event::key &&
               !keys.back().insert(parsed.get_ref<const std::string&>()).second) {
      error =
          InvalidArgument("{}: key '{}' occurs twice", file, parsed.get_ref<const std::string&>());
    }
    return error.ok();
  };
  json value;
  try {
    value = json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& e) {
    return InvalidArgument("{}: not valid JSON: {}", file, e.what());
  }
  if (!error.ok()) return error;
  if (!value.is_object()) return InvalidArgument("{}: must be a JSON object", file);
  return value;
}

}  // namespace lserve
