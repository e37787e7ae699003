// The error a client gets: an HTTP status and OpenAI's error object. Values.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>

#include "core/status.h"

namespace lserve {

struct ApiError {
  int status = 400;
  std::string message;
  std::string param;  // field at fault; empty: null
  std::string code;   // machine-readable reason; empty: null

  // OpenAI's name for the class of `status`, e.g. "invalid_request_error".
  const char* type() const;
  // {"error": {"message", "type", "param", "code"}}
  std::string ToJson() const;
};

// 400 that names `field`.
template <typename... Args>
ApiError BadField(const std::string& field, fmt::format_string<Args...> format, Args&&... args) {
  return {400, field + ": " + fmt::format(format, std::forward<Args>(args)...), field,
          "invalid_value"};
}

// What the engine or a template said, as a client should hear it.
ApiError FromStatus(const Status& status);

// Success or the error: what every reader of requests returns.
using MaybeError = std::optional<ApiError>;

}  // namespace lserve
