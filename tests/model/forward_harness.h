// Runs a model's forward pass over one prompt, dense, and gives logits: for golden tests.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "kv/kv_cache.h"
#include "model/model.h"
#include "sparse/planner.h"

namespace lserve {

struct ForwardOptions {
  std::string backend = "ref";
  KvType kv = KvType::kKv32;
  bool weights_bf16 = false;
  int max_context = 0;  // 0: the length of the prompt
  int chunk = 64;
};

// Logits of the last token of `ids`, the prompt fed in chunks.
inline Result<std::vector<float>> LastLogits(const ModelFiles& files,
                                             const std::vector<int32_t>& ids,
                                             const ForwardOptions& options) {
  const ModelConfig& c = files.config;
  const int length = static_cast<int>(ids.size());
  ThreadPool pool(1);
  Result<std::unique_ptr<Ops>> ops = MakeOps(options.backend, &pool);
  if (!ops.ok()) return ops.status();
  ModelOptions model_options;
  model_options.weights_bf16 = options.weights_bf16;
  model_options.max_tokens = options.chunk;
  model_options.max_logit_rows = 1;
  model_options.max_context = options.max_context > 0 ? options.max_context : length;
  Result<std::unique_ptr<Model>> model = Model::Load(files, ops->get(), model_options);
  if (!model.ok()) return model.status();

  KvCacheConfig kv;
  const std::vector<HeadClass> classes(static_cast<size_t>(c.kv_heads), HeadClass::kRetrieval);
  kv.layers.assign(static_cast<size_t>(c.layers), HeadMap(classes));
  kv.codec = KvCodec(options.kv, options.kv, c.head_dim);
  kv.stats = {16, c.head_dim};
  kv.max_slots = 1;
  kv.max_blocks = (length + kBlockTokens - 1) / kBlockTokens;
  kv.pages[0] = kv.pages[1] = kv.max_blocks + 1;
  if (Status s = (*ops)->SupportsKv(kv.codec, c.group()); !s.ok()) return s;
  KvCache cache(std::move(kv));
  Planner planner(SparsityConfig(), &cache.config().layers, c.group(),
                  (*ops)->PrefillTile(c.group()));
  const int slot = cache.AllocateSlot();
  CHECK(cache.Extend(slot, length));

  SelectionState state;
  state.prompt_len = length;
  std::vector<float> logits(static_cast<size_t>(c.vocab));
  for (int begin = 0; begin < length; begin += options.chunk) {
    const int count = std::min(options.chunk, length - begin);
    std::vector<int32_t> positions, slots(static_cast<size_t>(count), slot);
    for (int i = 0; i < count; ++i) positions.push_back(begin + i);
    SeqStep step;
    step.slot = slot;
    step.q_len = count;
    step.pos = begin;
    step.mode = AttentionMode::kDense;
    step.state = &state;
    const int32_t row = count - 1;
    StepInput input;
    input.tokens = std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    input.seq = slots;
    input.pos = positions;
    input.sequences = {&step, 1};
    input.logit_rows = {&row, 1};
    (*model)->Forward(input, &planner, &cache, Mat(logits.data(), 1, c.vocab));
  }
  return logits;
}

}  // namespace lserve
