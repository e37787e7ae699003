// OpenModel for Hugging Face directories.
#pragma once

#include <string>

#include "model/weights.h"

namespace lserve {

// Fills everything of ModelFiles; the tensors are not yet checked against the configuration.
Result<ModelFiles> OpenHfDirectory(const std::string& path);

}  // namespace lserve
