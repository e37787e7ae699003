// ModelConfig from GGUF metadata.
#pragma once

#include <string>

#include "model/config.h"
#include "model/gguf.h"

namespace lserve {

// Everything but `eos` of end-of-turn tokens, which needs the tokenizer. Errors name `path` and the
// key.
Result<ModelConfig> ConfigFromGguf(const GgufFile& file, const std::string& path);

}  // namespace lserve
