// Profiles: one file with what was found to keep a model's answers (docs/formats.md): head pattern,
// static sparsity, windows, budget, selection, the crossover; with the model's fingerprint and
// where the numbers come from. `lserve calibrate` writes them, the engine loads them; those that
// are shipped are found by fingerprint (model/fingerprint.h). A profile may come from anywhere and
// is treated as hostile: every field is checked, unknown ones are errors, and no other file is read
// than one beside it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/status.h"
#include "sparse/head_pattern.h"
#include "sparse/settings.h"

namespace lserve {

struct Profile {
  std::string path;                  // of the file
  std::string fingerprint, model;    // the model it was made for; `model` is for people
  std::string head_pattern;          // file in the profile's folder; "none"; empty: says nothing
  std::optional<HeadPattern> gates;  // written out in the profile, or read from head_pattern
  SparsitySettings settings;
  std::string provenance;  // JSON: how the numbers were found
};

// Errors name file and field. `path` of a text: for messages and to find head_pattern.
Result<Profile> LoadProfile(const std::string& path);
Result<Profile> ParseProfile(std::string_view text, const std::string& path);

// The file's text. Not written: path, and gates where head_pattern names a file.
std::string ProfileText(const Profile& profile);

}  // namespace lserve
