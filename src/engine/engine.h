// The engine: takes requests from any thread, runs them together on one thread of its own, and
// tells each request's sink what happens to it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "core/status.h"
#include "engine/request.h"
#include "model/config.h"
#include "plan/kv_codec.h"
#include "sparse/settings.h"
#include "text/tokenizer.h"

namespace lserve {

struct EngineOptions {
  std::string model;             // path
  std::string backend = "auto";  // auto: cuda where there is a GPU | cuda | cpu | ref
  int gpu = 0;                   // which one
  double gpu_memory_utilization =
      0.9;                       // share of a GPU's memory that weights, workspace and KV take
  double prompt_scratch = 0.15;  // share of what is left for KV pages that keeps a prompt's K and V
                                 // as its next chunk reads them
  std::string random_weights;    // shape (model/shapes.h) to run with random weights on a GPU
  int threads = 0;               // 0: one a core
  bool weights_bf16 = false;     // convert weights instead of multiplying in their stored type
  KvTypes kv{KvType::kKv16, KvType::kKv16};
  // What is in force: Create applies the profile to it, then what was given.
  SparsityConfig sparsity;
  SparsitySettings given;
  std::string profile;         // path; empty: by model fingerprint; "none"
  bool force_profile = false;  // also one of another model
  std::string head_pattern;    // path of a DuoAttention TSV; empty: the profile's, or by model;
                               // "none": every head is a retrieval head
  int max_context = 0;         // tokens; 0: the model's, as far as the pools can hold it
  // Both pools together; 0: 4 on a CPU, on a GPU what is left of its memory.
  double kv_memory_gib = 0;
  int max_running = 32;  // sequences
  int max_queue = 256;   // waiting requests
  // Token budget of a step (the largest prefill chunk); 0: 512 on a CPU, 8192 on a GPU.
  int step_tokens = 0;
  // Longest step beside decoding sequences; 0: chosen by how long it takes without prompts.
  double step_target_ms = 0;
  bool prefix_cache = true;
  double prefix_cache_host_gib = 0;  // host memory for what the pools give away
  std::string prefix_cache_dir;      // keeps it over restarts; empty: memory only
  double prefix_cache_dir_gib = 16;  // size of the files
  bool deterministic = false;
  uint64_t seed = 0;  // for requests without one; 0: from the clock
};

// A snapshot for metrics and /health.
struct EngineStats {
  bool alive = true;
  int running = 0, waiting = 0;
  // Idle pages of the prefix cache do not count as used.
  int64_t retrieval_pages = 0, retrieval_pages_used = 0, streaming_pages = 0,
          streaming_pages_used = 0;
  // Replays: preempted answers whose prompt had to run again, at least in part.
  int64_t preemptions = 0, replays = 0, prompt_tokens = 0, generation_tokens = 0, steps = 0;
  int64_t computed_tokens = 0;  // prompt and generated, without those found in the prefix cache
  int64_t attention_pages_read = 0, attention_pages_total = 0, selector_runs = 0;
  int64_t audits = 0;  // layers of decode steps whose selection was audited
  // Prompt tokens that were looked up in the prefix cache and those that were found; blocks in it.
  int64_t integrity_checks = 0;  // of the pools, after a while without requests
  int64_t prefix_queries = 0, prefix_hits = 0, prefix_cache_blocks = 0;
  // Blocks that came from --prefix-cache-host-gb and --prefix-cache-dir; what is in the former.
  int64_t prefix_host_restored = 0, prefix_restored = 0;
  int64_t prefix_host_blocks = 0, prefix_host_bytes = 0;
};

class Engine {
 public:
  // Loads the model and starts the engine's thread.
  static Result<std::unique_ptr<Engine>> Create(const EngineOptions& options);
  virtual ~Engine() = default;  // aborts what is running

  // Any thread. Errors (nothing was queued, the sink is never called): empty prompt, ids outside
  // the vocabulary, parameters out of range, prompt + 1 > max_context() (message with both
  // numbers), more pages than the pools have, a full queue (kResourceExhausted).
  virtual Status Submit(Request request, EventSink sink) = 0;
  // Any thread. The request ends within one step with FinishReason::kAborted; unknown ids are
  // ignored.
  virtual void Cancel(const std::string& id) = 0;
  // Any thread.
  virtual EngineStats stats() const = 0;

  // Immutable after Create.
  virtual const EngineOptions& options() const = 0;
  virtual const ModelConfig& config() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const std::string& chat_template() const = 0;
  virtual int max_context() const = 0;
  // Tokens of the longest request, prompt and answer, with this attention (null: the server's):
  // less than max_context() where the pool of streaming heads is too small to hold everything.
  virtual int longest(std::optional<AttentionMode> attention) const = 0;
  // Lines for people: model, backend, KV type, head split and lost gate mass, pools.
  virtual std::string Describe() const = 0;
};

}  // namespace lserve
