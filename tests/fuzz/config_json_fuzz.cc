// Fuzzes config.json: any text gives an error or a configuration within its ranges, whose rotary
// frequencies are finite.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "model/config_hf.h"
#include "model/hf_json.h"
#include "model/rope.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto object = lserve::ParseJsonObject(text, "input");
  if (!object.ok()) return 0;
  const auto config = lserve::ConfigFromJson(object.value(), "input");
  if (!config.ok()) return 0;
  const lserve::ModelConfig& c = config.value();
  if (c.layers < 1 || c.kv_heads < 1 || c.q_heads % c.kv_heads != 0 || c.head_dim % 2 != 0 ||
      c.max_position < 1)
    __builtin_trap();
  const auto rope = lserve::RopeFrequencies::Make(c.rope, c.head_dim, c.max_position);
  for (const double f : rope.inverse()) {
    if (!std::isfinite(f) || f < 0) __builtin_trap();
  }
  return 0;
}
