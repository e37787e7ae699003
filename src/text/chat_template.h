// Chat templates: the part of Jinja2 that the templates of real models use, with limits so that a
// hostile template cannot hang or exhaust the server. A ChatTemplate is immutable and may be used
// from any thread. What differs from Jinja2 on purpose: integers are 64 bits wide
// (larger ones in the context become floats), `escape` and
// `safe` give plain strings (autoescape is off), no template inheritance and no imports, and lists
// and dicts cannot be changed in place (as in the sandbox that transformers renders in).
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/status.h"

namespace lserve {

struct TemplateLimits {
  int64_t steps = 5'000'000;        // statements and expressions evaluated
  int64_t work = 512 << 20;         // bytes and elements touched by operations on values
  int nesting = 200;                // of blocks and expressions in the source
  int depth = 400;                  // of evaluations inside evaluations (macros that call macros)
  size_t output_bytes = 16 << 20;   // of the result and of any single intermediate value
  size_t memory_bytes = 256 << 20;  // of all intermediate values alive at once
  size_t source_bytes = 1 << 20;    // of the template
};

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // Errors give line and reason: kInvalidArgument for a template that Jinja2 would refuse as well,
  // kUnsupported for what lserve has no code for, kResourceExhausted for a limit.
  static Result<std::unique_ptr<ChatTemplate>> Parse(const std::string& source,
                                                     const TemplateLimits& limits = {});

  // Renders with the names of `context` as variables (an ordered JSON object: messages, tools,
  // add_generation_prompt, bos_token, eos_token, ...), as transformers' apply_chat_template does
  // (trim_blocks and lstrip_blocks on; raise_exception, strftime_now, tojson available).
  // raise_exception's message comes back unchanged as kInvalidArgument; other errors as from Parse.
  // `now` is what strftime_now prints, as UTC.
  virtual Result<std::string> Render(const nlohmann::ordered_json& context,
                                     std::time_t now) const = 0;
};

}  // namespace lserve
