// The parts of an engine whose model runs on a GPU: weights, workspace, and pools that take what is
// left of the memory.
#pragma once

#include "engine/engine_thread.h"
#include "model/weights.h"

namespace lserve {

// Opens the GPU where `options.backend` is "cuda", or "auto" and there is one; null where the CPU
// is to do the work. Errors say why the GPU cannot.
Result<std::unique_ptr<Device>> OpenDeviceFor(const EngineOptions& options);

// Fills in parts->cache, runner, planner and max_context for the device of `parts`. `kv` has layers
// and codec. Errors name the option and what would fit.
Status LoadOnDevice(const ModelFiles& files, KvCacheConfig kv, EngineParts* parts,
                    size_t* weight_bytes);

}  // namespace lserve
