// Fuzzes the template parser and evaluator: any bytes are a template, rendered with a small
// conversation. Nothing may crash, hang or break a limit.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "text/chat_template.h"
#include "text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto kContext = nlohmann::ordered_json::parse(R"({
      "messages": [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": [{"type": "text", "text": "Zürich 🎉"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"type": "function",
          "function": {"name": "f", "arguments": {"a": 1, "b": [1.5, true]}}}]},
        {"role": "tool", "content": "<ok>"}],
      "tools": [{"type": "function", "function": {"name": "f", "description": "d",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}],
      "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>", "n": 7, "s": "text"})");
  lserve::TemplateLimits limits;
  limits.steps = 20'000;
  limits.work = 4 << 20;
  limits.output_bytes = 64 << 10;
  limits.memory_bytes = 1 << 20;
  limits.source_bytes = 16 << 10;
  const std::string source(reinterpret_cast<const char*>(data), size);
  auto parsed = lserve::ChatTemplate::Parse(source, limits);
  if (!parsed.ok()) return 0;
  auto text = (*parsed)->Render(kContext, 1753108332);
  if (!text.ok()) return 0;
  if (text->size() > limits.output_bytes || !lserve::text::IsValidUtf8(*text)) std::abort();
  return 0;
}
