// Recognising a model whatever file it comes in, to find the data that was made for it.
#pragma once

#include <optional>
#include <string>

#include "core/status.h"
#include "model/weights.h"

namespace lserve {

// Architecture, shape and the first 16 hex digits of the SHA-256 of the final norm's values as
// bfloat16: a directory and its GGUF give the same.
std::string Fingerprint(const ModelFiles& files);

// The gate table that data/head_patterns/index.json names for this model: by fingerprint, or, for
// published tables whose weights we do not have, by shape and name. Nothing when there is none; an
// error when the index or its file is damaged.
Result<std::optional<std::string>> FindHeadPattern(const ModelFiles& files);

}  // namespace lserve
