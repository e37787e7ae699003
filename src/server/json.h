// JSON as the server uses it: parsed within limits, so that no text can exhaust the stack or the
// memory, and printed without ever failing. Functions may be called from any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/status.h"
#include "server/options.h"

namespace lserve {

using Json = nlohmann::ordered_json;

// Errors say what is wrong and at which byte. Rejects duplicate keys: which of two values counts
// must not depend on the reader.
Result<Json> ParseJson(std::string_view text, const JsonLimits& limits);

// Compact; invalid UTF-8 in strings becomes U+FFFD.
std::string Dump(const Json& value);

// "a string", "an object", ...: what `value` is, for error messages.
const char* KindName(const Json& value);

}  // namespace lserve
