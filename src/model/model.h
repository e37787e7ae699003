// The decoder-only transformer: weights prepared for a backend, and the forward pass. One thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "kernels/ops.h"
#include "model/config.h"
#include "model/rope.h"
#include "model/runner.h"
#include "model/weights.h"

namespace lserve {

struct ModelOptions {
  bool weights_bf16 = false;  // convert matrices to bfloat16 instead of keeping their stored type
  int max_tokens = 512;       // most rows of a step
  int max_logit_rows = 512;   // most rows with logits
  int max_context = 0;        // tokens; fixes the factor of dynamic rope
};

class Model : public ModelRunner {
 public:
  // Packs the weights; errors name the tensor. `ops` must outlive the model; `files` is needed only
  // during the call.
  static Result<std::unique_ptr<Model>> Load(const ModelFiles& files, Ops* ops,
                                             const ModelOptions& options);

  int vocab() const override { return config_.vocab; }
  void Forward(const StepInput& input, Planner* planner, KvCache* cache, Mat logits) override;
  bool audits() const override { return true; }
  const ModelConfig& config() const { return config_; }
  size_t weight_bytes() const;

 private:
  struct Layer;
  Model(const ModelConfig& config, Ops* ops, const ModelOptions& options);

  ModelConfig config_;
  Ops* ops_;
  ModelOptions options_;
  RopeFrequencies rope_;
  std::unique_ptr<Weight> embedding_, output_;  // output_ null: tied
  std::vector<float> output_norm_;
  std::vector<std::unique_ptr<Layer>> layers_;
  Buffer scratch_;
  std::vector<float> lse_read_, lse_all_;  // of audited layers

 public:
  ~Model() override;
};

}  // namespace lserve
