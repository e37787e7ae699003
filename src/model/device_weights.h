// A model's weights in a device's memory, in bf16, as the runner multiplies them: q, k and v of a
// layer as one matrix, gate and up as another. GGUF block formats are converted here. One thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/device.h"
#include "model/config.h"
#include "model/weights.h"

namespace lserve {

struct DeviceWeights {
  struct Layer {
    Block qkv, o, gate_up, down;  // bf16 [q + k + v rows][hidden], [hidden][q width], ...
    Block attn_norm, ffn_norm;    // float [hidden]
    Block q_norm, k_norm;         // float [D]; empty: the model has none
    Block qkv_bias;               // float [q + k + v rows]; empty: none
  };
  Block embedding;    // bf16 [vocab][hidden]
  Block output;       // bf16 [vocab][hidden]; empty: the embedding
  Block output_norm;  // float [hidden]
  std::vector<Layer> layers;

  size_t bytes() const;
};

// Uploads the weights. Errors say how much memory was missing.
Result<DeviceWeights> UploadWeights(const ModelFiles& files, Device* device, ThreadPool* pool);

// Normal random weights of the configuration's shapes, made on the device, each matrix scaled by
// its input width so that activations keep their size. For speed work; the same for the same seed.
Result<DeviceWeights> RandomWeights(const ModelConfig& config, Device* device, uint64_t seed);

}  // namespace lserve
