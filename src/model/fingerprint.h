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

// What data/ has for a model: paths.
struct KnownModel {
  std::string head_pattern;
  std::string profile;  // empty: none
};
// The entry of data/head_patterns/index.json for this model: by fingerprint, or, for published gate
// tables whose weights we do not have, by shape and name. Nothing when there is none; an error when
// the index is damaged.
Result<std::optional<KnownModel>> FindKnownModel(const ModelFiles& files);

}  // namespace lserve
