// An engine from its parts: EngineCore on a thread of its own, behind the interface of engine.h.
// Engine::Create loads the parts of a real model; tests put them together without weights.
#pragma once

#include <memory>
#include <string>

#include "core/thread_pool.h"
#include "engine/engine.h"
#include "engine/engine_core.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kv/host_pages.h"
#include "kv/prefix_store.h"

namespace lserve {

// What an engine is made of, each after what it uses.
struct EngineParts {
  EngineOptions options;
  ModelConfig config;
  int max_context = 0;  // tokens; not more than a pool of `cache` holds
  std::string chat_template;
  std::string description;  // Engine::Describe
  std::string kv_identity;  // what keys and values depend on, see kv/block_hash.h
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ThreadPool> pool;  // null where the runner needs none
  std::unique_ptr<Ops> ops;          // likewise
  std::unique_ptr<Device> device;    // likewise
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<HostPages> host_pages;      // may be null
  std::unique_ptr<PrefixStore> prefix_store;  // likewise
  std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<Planner> planner;
};

// Starts the thread.
std::unique_ptr<Engine> StartEngine(EngineParts parts);

}  // namespace lserve
