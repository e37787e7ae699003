// Reads the structure of a safetensors file (format: the README of huggingface/safetensors), as
// distrustfully as gguf.h. Stateless, any thread.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "core/tensor.h"

namespace lserve {

// The F32, F16 and BF16 tensors of one or two dimensions, under their stored names, as views into
// `bytes`. `path` names the file in errors.
Result<std::vector<TensorView>> ParseSafetensors(std::span<const std::byte> bytes,
                                                 const std::string& path);

}  // namespace lserve
