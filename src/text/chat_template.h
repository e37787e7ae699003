// Chat templates: the part of Jinja2 that the templates of real models use, with limits so that a hostile template cannot hang or exhaust the server.
// A ChatTemplate is immutable and may be used from any thread.
#pragma once

#include <ctime>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "core/status.h"

namespace lserve {

struct TemplateLimits {
  int64_t steps = 1'000'000;          // statements and expressions evaluated
  int depth = 64;                     // nesting of macros, expressions and blocks
  size_t output_bytes = 16 << 20;     // of the result and of any intermediate string
};

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // Errors give line and reason.
  static Result<std::unique_ptr<ChatTemplate>> Parse(const std::string& source, const TemplateLimits& limits = {});

  // Renders with the names of `context` as variables (an ordered JSON object: messages, tools, add_generation_prompt, bos_token, eos_token, ...), as
  // transformers' apply_chat_template does (trim_blocks and lstrip_blocks on; raise_exception, strftime_now, tojson available). raise_exception's message
  // comes back as kInvalidArgument. `now` is what strftime_now prints, as UTC.
  virtual Result<std::string> Render(const nlohmann::ordered_json& context, std::time_t now) const = 0;
};

}  // namespace lserve
