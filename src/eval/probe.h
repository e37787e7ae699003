// A model over one sequence at a time, for measurements that serving has no use for: every head's
// storage keeps everything, and any head may be PLANNED as a streaming one (docs/structure.md: the
// class of a plan and of its storage are separate facts). So one stored prompt serves any number of
// what-ifs about its end. One thread. Positions and windows in tokens.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kv/kv_cache.h"
#include "model/config.h"
#include "model/runner.h"
#include "model/weights.h"
#include "sparse/planner.h"

namespace lserve {

struct ProbeOptions {
  std::string backend = "auto";  // cuda where there is a GPU, else cpu; cuda, cpu, ref
  int gpu = 0;
  int threads = 0;
  KvTypes kv{KvType::kKv16, KvType::kKv16};
  int max_length = 0;      // longest sequence, tokens
  int max_budget = 16384;  // tokens that Decode may be given
  // A streaming plan sees this much, in the prompt as well as in the answer.
  int sink = 128, window = 256;
};

// Logits [rows][vocab] of some positions, one after another.
struct LogitRows {
  int rows = 0, vocab = 0;
  Buffer data;
  std::span<const float> row(int i) const {
    return {data.as<float>() + static_cast<size_t>(i) * static_cast<size_t>(vocab),
            static_cast<size_t>(vocab)};
  }
};

// How often a KV head's blocks were read over the steps of an answer: [layer][head][block].
struct PageReads {
  int steps = 0, blocks = 0;
  std::vector<std::vector<std::vector<int>>> reads;
};

class Probe {
 public:
  // `files` must outlive the call only. Errors name the model's or the option's fault.
  static Result<std::unique_ptr<Probe>> Make(const ModelFiles& files, const ProbeOptions& options);

  // Reads ids as the beginning of a new sequence, dense. REQUIRES: fits max_length.
  void Begin(std::span<const int32_t> ids);
  // Goes on from the end of Begin's ids, whatever was run since then, planned by `plan` (one map a
  // layer), and gives the logits of the last `rows` of `ids`. Tokens after Begin's are overwritten.
  LogitRows Continue(std::span<const int32_t> ids, const std::vector<HeadMap>& plan, int rows);
  // Likewise one token at a time, as an answer is written: retrieval heads read `budget` tokens a
  // step in selected pages. Gives all logits. `reads` (may be null): what was read.
  LogitRows Decode(std::span<const int32_t> ids, const std::vector<HeadMap>& plan, int budget,
                   PageReads* reads);

  const ModelConfig& config() const { return config_; }
  ThreadPool* pool() { return &pool_; }
  // A device's failure: everything since then is worthless.
  Status Health() { return runner_->Health(); }
  // One KV head's part of a page of Begin's sequence, as it is stored. REQUIRES: it is on the host.
  const std::byte* Slice(int layer, int kv_head, int block) const {
    return cache_->View(layer).Slice(slot_, kv_head, block);
  }

 private:
  Probe(const ProbeOptions& options, const ModelConfig& config);
  Status LoadOnHost(const ModelFiles& files, KvCacheConfig kv, const SparsityConfig& sparsity);
  Status LoadOnDevice(const ModelFiles& files, KvCacheConfig kv, const SparsityConfig& sparsity);
  void SetPlan(const std::vector<HeadMap>& plan);
  void Step(std::span<const int32_t> ids, int position, bool decode, std::span<const int32_t> rows,
            int budget, float* logits);

  const ProbeOptions options_;
  const ModelConfig config_;
  int chunk_ = 0;  // tokens of a step
  ThreadPool pool_;
  std::unique_ptr<Ops> ops_;        // of the host, or
  std::unique_ptr<Device> device_;  // this
  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<KvCache> cache_;
  std::vector<HeadMap> plan_;  // what the planner goes by
  std::unique_ptr<Planner> planner_;
  SelectionState state_;
  AttentionMode mode_ = AttentionMode::kDense;
  int slot_ = -1, begun_ = 0;
};

}  // namespace lserve
