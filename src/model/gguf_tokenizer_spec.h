// TokenizerSpec from a GGUF's tokenizer.ggml.* keys.
#pragma once

#include <string>

#include "model/gguf.h"
#include "text/tokenizer.h"

namespace lserve {

// Errors name `path` and the key.
Result<TokenizerSpec> TokenizerFromGguf(const GgufFile& file, const std::string& path);

}  // namespace lserve
