// What is in force for a model: defaults, then its profile, then flags; and which heads stream.
// Used when an engine is loaded and by `lserve inspect`.
#pragma once

#include <optional>
#include <string>

#include "engine/engine.h"
#include "model/profile.h"
#include "model/weights.h"
#include "sparse/head_pattern.h"

namespace lserve {

struct SparsityChoice {
  SparsityConfig config;
  HeadSplit heads;
  std::string heads_line;    // for people: how many stream, and by which pattern
  std::string profile_line;  // likewise which profile is in force
  std::optional<Profile> profile;
};

// Reads the profile and the pattern that `options` name or that data/ has for the model. Errors
// name flag, file and field: a profile of another model, a pattern of another shape, settings that
// do not go together.
Result<SparsityChoice> ChooseSparsity(const EngineOptions& options, const ModelFiles& files);

}  // namespace lserve
