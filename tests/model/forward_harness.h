// Runs a model's forward pass over one sequence, dense, and gives logits: for golden tests.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/device.h"
#include "kv/kv_cache.h"
#include "model/device_model.h"
#include "model/model.h"
#include "sparse/planner.h"

namespace lserve {

struct ForwardOptions {
  std::string backend = "ref";  // or "cpu", or "cuda" (bf16 weights; an error without a GPU)
  KvType kv = KvType::kKv32;
  bool weights_bf16 = false;
  int max_context = 0;  // fixes the factor of dynamic rope; 0: the sequence's length
  int chunk = 64;
  int threads = 1;
};

// One sequence of at most `length` tokens at a time.
class ForwardHarness {
 public:
  static Result<std::unique_ptr<ForwardHarness>> Make(const ModelFiles& files, int length,
                                                      const ForwardOptions& options) {
    const ModelConfig& c = files.config;
    std::unique_ptr<ForwardHarness> h(new ForwardHarness(options, c.vocab));
    const int max_context = options.max_context > 0 ? options.max_context : length;
    KvCacheConfig kv;
    const std::vector<HeadClass> classes(static_cast<size_t>(c.kv_heads), HeadClass::kRetrieval);
    kv.layers.assign(static_cast<size_t>(c.layers), HeadMap(classes));
    kv.codec = KvCodec(options.kv, options.kv, c.head_dim);
    kv.stats = {16, c.head_dim};
    kv.max_slots = 1;
    kv.max_blocks = (length + kBlockTokens - 1) / kBlockTokens;
    kv.pages[0] = kv.pages[1] = kv.max_blocks + 1;
    Result<int> tile = options.backend == "cuda" ? h->LoadOnDevice(files, max_context, &kv)
                                                 : h->LoadOnHost(files, max_context, kv.codec);
    if (!tile.ok()) return tile.status();
    h->cache_ = std::make_unique<KvCache>(std::move(kv));
    h->planner_ =
        std::make_unique<Planner>(SparsityConfig(), &h->cache_->config().layers, c.group(), *tile);
    h->length_ = length;
    h->Restart();
    return h;
  }

  // Forgets the sequence and begins another.
  void Restart() {
    if (slot_ >= 0) cache_->FreeSlot(slot_);
    slot_ = cache_->AllocateSlot();
    CHECK(cache_->Extend(slot_, length_));
    position_ = 0;
    state_ = {};
    state_.prompt_len = length_;
  }

  // Goes on with `ids` and gives the logits of their last token.
  const std::vector<float>& Feed(const std::vector<int32_t>& ids) {
    const int count = static_cast<int>(ids.size());
    for (int begin = 0; begin < count; begin += options_.chunk)
      Step(std::span(ids).subspan(static_cast<size_t>(begin),
                                  static_cast<size_t>(std::min(options_.chunk, count - begin))));
    return logits_;
  }

 private:
  ForwardHarness(const ForwardOptions& options, int vocab)
      : options_(options), pool_(options.threads), logits_(static_cast<size_t>(vocab)) {}

  // Both give the queries of a prefill tile.
  Result<int> LoadOnHost(const ModelFiles& files, int max_context, const KvCodec& codec) {
    Result<std::unique_ptr<Ops>> ops = MakeOps(options_.backend, &pool_);
    if (!ops.ok()) return ops.status();
    ops_ = std::move(*ops);
    if (Status s = ops_->SupportsKv(codec, files.config.group()); !s.ok()) return s;
    ModelOptions options;
    options.weights_bf16 = options_.weights_bf16;
    options.max_tokens = options_.chunk;
    options.max_logit_rows = 1;
    options.max_context = max_context;
    Result<std::unique_ptr<Model>> model = Model::Load(files, ops_.get(), options);
    if (!model.ok()) return model.status();
    model_ = std::move(*model);
    return ops_->PrefillTile(files.config.group());
  }
  Result<int> LoadOnDevice(const ModelFiles& files, int max_context, KvCacheConfig* kv) {
    Result<std::unique_ptr<Device>> device = OpenDevice(0);
    if (!device.ok()) return device.status();
    device_ = std::move(*device);
    Result<DeviceWeights> weights = UploadWeights(files, device_.get(), &pool_);
    if (!weights.ok()) return weights.status();
    DeviceModelOptions options;
    options.max_tokens = options_.chunk;
    options.max_logit_rows = 1;
    options.max_context = max_context;
    options.max_slots = 1;
    Result<std::unique_ptr<DeviceModel>> model = DeviceModel::Create(
        files.config, SparsityConfig(), device_.get(), std::move(*weights), options);
    if (!model.ok()) return model.status();
    model_ = std::move(*model);
    kv->memory = device_.get();
    return device_->PrefillTile(files.config.head_dim, files.config.group());
  }

  void Step(std::span<const int32_t> ids) {
    const int count = static_cast<int>(ids.size());
    std::vector<int32_t> positions, slots(ids.size(), slot_);
    for (int i = 0; i < count; ++i) positions.push_back(position_ + i);
    SeqStep step;
    step.slot = slot_;
    step.q_len = count;
    step.pos = position_;
    step.decode = count == 1 && position_ > 0;
    step.mode = AttentionMode::kDense;
    step.state = &state_;
    const int32_t row = count - 1;
    StepInput input;
    input.tokens = ids;
    input.seq = slots;
    input.pos = positions;
    input.sequences = {&step, 1};
    input.logit_rows = {&row, 1};
    model_->Forward(input, planner_.get(), cache_.get(),
                    Mat(logits_.data(), 1, static_cast<int64_t>(logits_.size())));
    position_ += count;
  }

  const ForwardOptions options_;
  ThreadPool pool_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<ModelRunner> model_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Planner> planner_;
  SelectionState state_;
  int length_ = 0, slot_ = -1, position_ = 0;
  std::vector<float> logits_;
};

// Logits of the last token of `ids`.
inline Result<std::vector<float>> LastLogits(const ModelFiles& files,
                                             const std::vector<int32_t>& ids,
                                             const ForwardOptions& options) {
  Result<std::unique_ptr<ForwardHarness>> harness =
      ForwardHarness::Make(files, static_cast<int>(ids.size()), options);
  if (!harness.ok()) return harness.status();
  return (*harness)->Feed(ids);
}

// Where greedy decoding leaves recorded tokens, if it does.
struct GreedyOutcome {
  int same = 0;        // tokens before the first difference
  double gap = 0;      // there: the recorded token's logit above the second, as recorded
  double own_gap = 0;  // there: our choice's logit above the recorded token's
};

// Decodes greedily as long as the tokens are the recorded ones. `logits`: after the prompt.
inline GreedyOutcome CompareGreedy(ForwardHarness* harness, std::vector<float> logits,
                                   const std::vector<int32_t>& greedy,
                                   const std::vector<double>& gaps) {
  GreedyOutcome outcome;
  for (size_t i = 0; i < greedy.size(); ++i, ++outcome.same) {
    const auto best = std::max_element(logits.begin(), logits.end());
    if (best - logits.begin() != greedy[i]) {
      outcome.gap = gaps[i];
      outcome.own_gap = *best - logits[static_cast<size_t>(greedy[i])];
      break;
    }
    if (i + 1 < greedy.size()) logits = harness->Feed({greedy[i]});
  }
  return outcome;
}

}  // namespace lserve
