// A text that two processes have in common exactly when the keys and values they would store for
// the same tokens (in the same attention mode) are interchangeable. The seed of every prefix-cache
// chain.
#pragma once

#include <string>

#include "engine/engine.h"
#include "kv/kv_cache.h"
#include "model/weights.h"

namespace lserve {

// `options.backend` is the one that runs; `max_context` matters to rope kinds that look at it.
std::string KvIdentity(const ModelFiles& files, const EngineOptions& options,
                       const KvCacheConfig& kv, int max_context);

}  // namespace lserve
