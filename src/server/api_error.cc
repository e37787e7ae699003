#include "server/api_error.h"

#include "server/json.h"

namespace lserve {

const char* ApiError::type() const {
  switch (status) {
    case 401:
      return "authentication_error";
    case 404:
      return code == "model_not_found" ? "invalid_request_error" : "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

std::string ApiError::ToJson() const {
  Json error = {{"message", message}, {"type", type()}, {"param", nullptr}, {"code", nullptr}};
  if (!param.empty()) error["param"] = param;
  if (!code.empty()) error["code"] = code;
  return Dump(Json{{"error", std::move(error)}});
}

ApiError FromStatus(const Status& status) {
  switch (status.code()) {
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kUnsupported:
      return {400, status.message(), "", "invalid_value"};
    case Code::kResourceExhausted:
      return {429, status.message(), "", "queue_full"};
    case Code::kUnavailable:
      return {503, status.message(), "", "unavailable"};
    case Code::kDeadlineExceeded:
      return {504, status.message(), "", "timeout"};
    default:
      return {500, status.message(), "", "internal_error"};
  }
}

}  // namespace lserve
