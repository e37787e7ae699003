// JSON of model directories: parsed with a limit on depth and without duplicate keys.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/status.h"

namespace lserve {

// The text's value, which must be an object. Errors name `file` and the byte.
Result<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& file,
                                       int max_depth = 32);

}  // namespace lserve
