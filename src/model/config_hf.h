// ModelConfig from a Hugging Face config.json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/status.h"
#include "model/config.h"

namespace lserve {

// `qkv_bias` is left to the tensors that are there. Errors name `file` and the field.
Result<ModelConfig> ConfigFromJson(const nlohmann::json& config, const std::string& file);

// Adds the ids of "eos_token_id" (absent, a number or a list of numbers) that are not in `eos` yet.
Status ReadEosIds(const nlohmann::json& config, const std::string& file, std::vector<int32_t>* eos);

}  // namespace lserve
