// Flags that several commands share, and finding a model by name. Main thread.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "core/status.h"
#include "engine/engine.h"

namespace lserve {

inline constexpr char kDefaultModel[] = "smollm2-135m-longctx";

// Engine flags as CLI11 fills them; Finish turns the texts among them into values.
struct EngineFlags {
  EngineOptions engine;
  std::string kv = "kv16";
  std::string attention = "lserve";
  std::string weights = "stored";

  // Adds every engine flag to `app`, grouped, with help a newcomer can work from. *this must
  // outlive parsing.
  void AddTo(CLI::App* app);
  // Checks what CLI11 cannot and finds the model. Errors name the flag.
  Result<EngineOptions> Finish();
};

// The flags about sparsity alone, into engine->given, profile and head_pattern; *engine must
// outlive parsing.
void AddSparsityFlags(CLI::App* app, EngineOptions* engine);

// A path as it is; the name of a default model (smollm2-135m-longctx, ...) or ORG/NAME that was
// pulled: its path in the folder of models, fetched first where it is a default and missing.
Result<std::string> FindModel(const std::string& model);

// Prints "lserve: message" and returns the exit status.
int Fail(const Status& status);

}  // namespace lserve
