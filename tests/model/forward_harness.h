// Runs a model's forward pass over one sequence, dense, and gives logits: for golden tests.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
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
    Result<std::unique_ptr<Ops>> ops = MakeOps(options.backend, &h->pool_);
    if (!ops.ok()) return ops.status();
    h->ops_ = std::move(*ops);
    ModelOptions model_options;
    model_options.weights_bf16 = options.weights_bf16;
    model_options.max_tokens = options.chunk;
    model_options.max_logit_rows = 1;
    model_options.max_context = options.max_context > 0 ? options.max_context : length;
    Result<std::unique_ptr<Model>> model = Model::Load(files, h->ops_.get(), model_options);
    if (!model.ok()) return model.status();
    h->model_ = std::move(*model);

    KvCacheConfig kv;
    const std::vector<HeadClass> classes(static_cast<size_t>(c.kv_heads), HeadClass::kRetrieval);
    kv.layers.assign(static_cast<size_t>(c.layers), HeadMap(classes));
    kv.codec = KvCodec(options.kv, options.kv, c.head_dim);
    kv.stats = {16, c.head_dim};
    kv.max_slots = 1;
    kv.max_blocks = (length + kBlockTokens - 1) / kBlockTokens;
    kv.pages[0] = kv.pages[1] = kv.max_blocks + 1;
    if (Status s = h->ops_->SupportsKv(kv.codec, c.group()); !s.ok()) return s;
    h->cache_ = std::make_unique<KvCache>(std::move(kv));
    h->planner_ = std::make_unique<Planner>(SparsityConfig(), &h->cache_->config().layers,
                                            c.group(), h->ops_->PrefillTile(c.group()));
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

  void Step(std::span<const int32_t> ids) {
    const int count = static_cast<int>(ids.size());
    std::vector<int32_t> positions, slots(ids.size(), slot_);
    for (int i = 0; i < count; ++i) positions.push_back(position_ + i);
    SeqStep step;
    step.slot = slot_;
    step.q_len = count;
    step.pos = position_;
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
  std::unique_ptr<Model> model_;
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
