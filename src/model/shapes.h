// Models by shape alone, for speed work: a configuration that is like a well-known model's and a
// tokenizer of bytes. Their weights are made at random on the device (device_weights.h).
#pragma once

#include <string>

#include "model/weights.h"

namespace lserve {

// llama-3-8b, qwen3-8b, qwen2.5-7b, llama-2-7b or minitron-4b; the error lists them. The files hold
// no tensors but the output norm, all ones.
Result<ModelFiles> ModelOfShape(const std::string& shape);

}  // namespace lserve
