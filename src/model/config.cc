#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "model/config_fields.h"

namespace lserve {

const char* ArchitectureName(Architecture arch) {
  switch (arch) {
    case Architecture::kLlama:
      return "llama";
    case Architecture::kMistral:
      return "mistral";
    case Architecture::kQwen2:
      return "qwen2";
    case Architecture::kQwen3:
      return "qwen3";
  }
  return "";
}

void ConfigFields::WrongType(const std::string& name, std::string_view wanted) {
  Fail(InvalidArgument("{}: {} must be {}", file_, name, wanted));
}

int ConfigFields::Integer(const std::string& name, int64_t min, int64_t max,
                          std::optional<int64_t> fallback) {
  std::optional<int64_t> value = fallback;
  if (Has(name)) {
    value = GetInteger(name);
    if (!value) {
      WrongType(name, "an integer");
    } else if (*value < min || *value > max) {
      Fail(InvalidArgument("{}: {} is {}, allowed are {} to {}", file_, name, *value, min, max));
    }
  } else if (!fallback) {
    Fail(InvalidArgument("{}: {} is missing", file_, name));
  }
  return static_cast<int>(status_.ok() ? *value : fallback.value_or(min));
}

double ConfigFields::Real(const std::string& name, double min, double max,
                          std::optional<double> fallback) {
  std::optional<double> value = fallback;
  if (Has(name)) {
    value = GetReal(name);
    if (!value) {
      WrongType(name, "a number");
    } else if (!(*value >= min && *value <= max)) {
      Fail(InvalidArgument("{}: {} is {}, allowed are {} to {}", file_, name, *value, min, max));
    }
  } else if (!fallback) {
    Fail(InvalidArgument("{}: {} is missing", file_, name));
  }
  return status_.ok() ? *value : fallback.value_or(min);
}

bool ConfigFields::Bool(const std::string& name, bool fallback) {
  if (!Has(name)) return fallback;
  const std::optional<bool> value = GetBool(name);
  if (!value) WrongType(name, "true or false");
  return value.value_or(fallback);
}

std::string ConfigFields::String(const std::string& name, const std::string& fallback) {
  if (!Has(name)) return fallback;
  const std::optional<std::string> value = GetString(name);
  if (!value) WrongType(name, "a string");
  return value.value_or(fallback);
}

Status FinishConfig(const std::string& file, ModelConfig* config) {
  const ModelConfig& c = *config;
  RopeConfig& rope = config->rope;
  if (c.q_heads % c.kv_heads != 0) {
    return InvalidArgument("{}: {} query heads cannot be shared evenly by {} KV heads", file,
                           c.q_heads, c.kv_heads);
  }
  if (c.head_dim % 2 != 0 || c.head_dim < 4)
    return InvalidArgument("{}: head dimension {} is not an even number from 4", file, c.head_dim);
  if (rope.kind == RopeConfig::Kind::kLlama3 && rope.high_freq_factor <= rope.low_freq_factor) {
    return InvalidArgument(
        "{}: rope scaling llama3 needs high_freq_factor ({}) above low_freq_factor ({})", file,
        rope.high_freq_factor, rope.low_freq_factor);
  }
  if (rope.kind == RopeConfig::Kind::kYarn && rope.beta_fast <= rope.beta_slow) {
    return InvalidArgument("{}: rope scaling yarn needs beta_fast ({}) above beta_slow ({})", file,
                           rope.beta_fast, rope.beta_slow);
  }
  if (rope.original_max_position == 0) rope.original_max_position = c.max_position;
  // The file gives the length before scaling for these kinds; with llama3 it is the length after.
  double longest = c.max_position;
  if (rope.kind == RopeConfig::Kind::kLinear || rope.kind == RopeConfig::Kind::kDynamic)
    longest *= rope.factor;
  if (rope.kind == RopeConfig::Kind::kYarn)
    longest = std::max(longest, rope.original_max_position * rope.factor);
  config->max_position = static_cast<int>(std::min(longest, static_cast<double>(kMaxPosition)));
  return Ok();
}

}  // namespace lserve
