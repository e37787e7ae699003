// OpenModel for GGUF files.
#pragma once

#include <string>

#include "model/weights.h"

namespace lserve {

// Fills everything of ModelFiles; the tensors are not yet checked against the configuration.
Result<ModelFiles> OpenGguf(const std::string& path);

}  // namespace lserve
