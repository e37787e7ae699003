// The forward pass on a GPU: the same transformer as model/model.h over Device's fused ops, with
// activations, plans and selection lists in device memory. Steps that only decode are recorded as
// graphs, one for each number of rows (in buckets) and whether a selection is due, and replayed.
// Every layer's queries stay until such a step is over, so that audits of selections
// (sparse/audit.h) run behind the graph. One thread.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/device.h"
#include "model/config.h"
#include "model/device_weights.h"
#include "model/rope.h"
#include "model/runner.h"

namespace lserve {

struct DeviceModelOptions {
  int max_tokens = 8192;    // most rows of a step
  int max_logit_rows = 64;  // most rows with logits
  int max_context = 0;      // tokens
  int max_slots = 0;        // rows of the page tables
  int max_budget = 16384;   // tokens that a request's selection may list
  // Retrieval heads by layer whose gathered K and V stay for the next chunk of the same prompt; at
  // most the layer's. Empty: none. KeptBytes of memory each.
  std::vector<int> kept_heads;
  bool graphs = true;          // record decode steps
  bool deterministic = false;  // a token's logits do not depend on the batch
};

class DeviceModel : public ModelRunner {
 public:
  // `device` must outlive the model. Errors say how much memory is missing.
  static Result<std::unique_ptr<DeviceModel>> Create(const ModelConfig& config,
                                                     const SparsityConfig& sparsity, Device* device,
                                                     DeviceWeights weights,
                                                     const DeviceModelOptions& options);
  // Bytes of workspace that Create takes beside the weights.
  static size_t WorkspaceBytes(const ModelConfig& config, const SparsityConfig& sparsity,
                               const Device& device, const DeviceModelOptions& options);

  // What it takes to keep a head of a layer, where that is possible at all; else 0.
  static size_t KeptBytes(const ModelConfig& config, const DeviceModelOptions& options);

  int vocab() const override { return config_.vocab; }
  void Forward(const StepInput& input, Planner* planner, KvCache* cache, Mat logits) override;
  int most_picks() const override { return most_picks_; }
  void ReadLogits(int row, std::span<float> logits) override;
  bool audits() const override { return true; }
  Status Health() override { return device_->Synchronize(); }
  int max_budget() const override { return options_.max_budget; }
  void PlanHeads(const std::vector<HeadMap>& layers) override;
  void SaveSelection(int slot, SelectionState* state) override;
  void LoadSelection(int slot, const SelectionState& state) override;
  size_t weight_bytes() const { return weights_.bytes(); }
  // Of the last step: from its first kernel to its last.
  double device_milliseconds() { return device_->Elapsed(0, 1); }

 private:
  struct Sizes;  // what the buffers hold
  struct Step;   // one step's shape
  DeviceModel(const ModelConfig& config, const SparsityConfig& sparsity, Device* device,
              DeviceWeights weights, const DeviceModelOptions& options);
  static Sizes SizesOf(const ModelConfig& config, const SparsityConfig& sparsity,
                       const Device& device, const DeviceModelOptions& options);

  void LearnHeads(const KvCache& cache);
  void UploadRope();
  void MeasureProducts();
  void UploadStep(const StepInput& input, Planner* planner, Step* step);
  void PlanPrompts(const StepInput& input, Planner* planner, Step* step);
  void ChooseKept(const StepInput& input, Step* step);
  void Layers(const Step& step, KvCache* cache);
  void DecodeAttention(const Step& step, int layer, const KvView& view);
  void PromptAttention(const Step& step, int layer, const KvView& view);
  void Head(const Step& step);
  void Answer(const StepInput& input);
  void PlanAudits(const StepInput& input, Planner* planner, Step* step);
  void Audit(const Step& step, int layer, const KvView& view);
  void TakeAudits(const Step& step, Planner* planner);
  cuda::DecodeArgs DecodeArgsOf(const Step& step, int layer, const KvView& view) const;
  uint16_t* Qkv(const Step& step, int layer) const;
  void MultiplyQkv(const DeviceWeights::Layer& w, int n, uint16_t* qkv);
  void MultiplyOut(const DeviceWeights::Layer& w, int n);
  void Mlp(const DeviceWeights::Layer& w, int n);
  void MultiplyLogits(int n);

  int lists() const { return shared_ ? config_.kv_heads : config_.q_heads; }
  int qkv_width() const { return (config_.q_heads + 2 * config_.kv_heads) * config_.head_dim; }

  const ModelConfig config_;
  const bool shared_;  // one selection list a KV head
  const PageScore score_;
  const int reach_;
  Device* const device_;
  const DeviceModelOptions options_;
  DeviceWeights weights_;
  RopeFrequencies frequencies_;

  Block rope_;  // float [max_context][D]
  // Activations, [max_tokens] rows each.
  Block x_, normed_, qkv_, attended_, gate_up_, activated_;
  Block logits_;  // float [max_logit_rows][vocab]
  Block best_;    // int32 [max_logit_rows]
  // Asks of a step with their wanted ids; answers, then the wanted ids' logits; scratch.
  Block asks_, wanted_, answers_, parts_;
  // The step: [max_tokens] int32 each, decode rows, and plans of prompts (grown as needed).
  Block ids_, seq_, pos_, groups_, from_, rows_, tiles_, runs_, ranges_;
  // Decode plans of all layers, selection lists of all slots.
  Block decode_tiles_, decode_runs_, decode_blocks_, lists_, counts_, head_class_;
  Block audit_tiles_, audit_runs_;  // of a step's audits (grown as needed)
  Block lse_;                       // float [audit][read, all][q heads]
  Block k_scratch_, v_scratch_;     // bf16 [heads at once, then kept ones][max_context][D]
  Block workspace_;
  int list_capacity_ = 0, run_capacity_ = 0, max_blocks_ = 0, heads_at_once_ = 0;
  int most_picks_ = 0;
  bool knows_heads_ = false;

  // The prompt whose K and V the kept scratch heads hold, and how many tokens of it.
  struct {
    uint64_t id = 0;
    int tokens = 0;
  } kept_;
  // By layer: which KV heads are kept (PrefillArgs::kept_heads), in which scratch heads.
  struct KeptHeads {
    uint64_t heads = 0;
    int first = 0;
  };
  std::vector<KeptHeads> kept_heads_;
  int scratch_heads_ = 0;

  std::vector<std::byte> host_answers_;
  std::vector<Tile> host_tiles_;
  std::vector<Run> host_runs_;
  std::vector<float> host_lse_;
  std::map<std::pair<int, bool>, int> graphs_;  // (rows, due) -> graph; -1: seen once
};

}  // namespace lserve
