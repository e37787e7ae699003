#include "model/config_gguf.h"

#include <cmath>
#include <cstring>

#include "model/config_fields.h"

namespace lserve {
namespace {

class GgufFields : public ConfigFields {
 public:
  GgufFields(const GgufFile& gguf, const std::string& path) : ConfigFields(path), gguf_(gguf) {}
  bool Has(const std::string& name) const override { return gguf_.Find(name) != nullptr; }

 protected:
  std::optional<int64_t> GetInteger(const std::string& name) const override {
    return gguf_.Find(name)->Integer();
  }
  std::optional<double> GetReal(const std::string& name) const override {
    return gguf_.Find(name)->Real();
  }
  std::optional<bool> GetBool(const std::string& name) const override {
    return gguf_.Find(name)->Bool();
  }
  std::optional<std::string> GetString(const std::string& name) const override {
    return gguf_.Find(name)->String();
  }

 private:
  const GgufFile& gguf_;
};

const TensorView* FindTensor(const GgufFile& file, std::string_view name) {
  for (const TensorView& tensor : file.tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

void ReadRope(GgufFields& in, const std::string& arch, const std::string& path, RopeConfig* rope) {
  const std::string prefix = arch + ".rope.", scaling = prefix + "scaling.";
  rope->theta = in.Real(prefix + "freq_base", 1.0001, kMaxTheta, 10000);
  const std::string type = in.String(scaling + "type", "");
  rope->original_max_position = in.Integer(scaling + "original_context_length", 0, kMaxPosition, 0);
  if (type == "linear" || (type.empty() && in.Has(prefix + "scale_linear"))) {
    rope->kind = RopeConfig::Kind::kLinear;
    rope->factor =
        in.Real(type.empty() ? prefix + "scale_linear" : scaling + "factor", 1, kMaxRopeFactor);
  } else if (type == "yarn") {
    rope->kind = RopeConfig::Kind::kYarn;
    rope->factor = in.Real(scaling + "factor", 1, kMaxRopeFactor);
    rope->beta_fast = in.Real(scaling + "yarn_beta_fast", 1e-3, 1e6, 32);
    rope->beta_slow = in.Real(scaling + "yarn_beta_slow", 1e-3, 1e6, 1);
    // GGUF's factor multiplies the usual 0.1 ln(factor) + 1; RopeConfig's replaces it.
    if (in.Has(scaling + "attn_factor")) {
      rope->attention_factor =
          in.Real(scaling + "attn_factor", 1e-3, 1e3) * (0.1 * std::log(rope->factor) + 1);
    }
  } else if (!type.empty() && type != "none") {
    in.Fail(Unsupported("{}: {}type is '{}'; supported are none, linear and yarn", path, scaling,
                        type));
  }
}

Status ReadFrequencyFactors(const GgufFile& file, const std::string& path, ModelConfig* config) {
  const TensorView* tensor = FindTensor(file, "rope_freqs.weight");
  if (!tensor) return Ok();
  if (tensor->dtype != DType::kF32 || tensor->rows != 1 || tensor->cols != config->head_dim / 2) {
    return InvalidArgument("{}: tensor 'rope_freqs.weight' must hold {} F32 values", path,
                           config->head_dim / 2);
  }
  std::vector<float>& factors = config->rope.frequency_factors;
  factors.resize(static_cast<size_t>(tensor->cols));
  std::memcpy(factors.data(), tensor->data, factors.size() * sizeof(float));
  for (const float factor : factors) {
    if (!(factor >= 1e-3f && factor <= 1e6f)) {
      return InvalidArgument(
          "{}: tensor 'rope_freqs.weight' holds {}, allowed are 0.001 to 1000000", path, factor);
    }
  }
  return Ok();
}

}  // namespace

Result<ModelConfig> ConfigFromGguf(const GgufFile& file, const std::string& path) {
  GgufFields in(file, path);
  ModelConfig config;
  const std::string arch = in.String("general.architecture", "");
  if (!in.status().ok()) return in.status();
  if (arch.empty()) return InvalidArgument("{}: general.architecture is missing", path);
  if (arch == "llama") {
    config.arch = Architecture::kLlama;
  } else if (arch == "qwen2") {
    config.arch = Architecture::kQwen2;
  } else if (arch == "qwen3") {
    config.arch = Architecture::kQwen3;
  } else {
    return Unsupported("{}: architecture '{}'; supported are llama, qwen2 and qwen3", path, arch);
  }
  const std::string p = arch + ".";
  config.name = in.String("general.name", arch);
  config.layers = in.Integer(p + "block_count", 1, kMaxLayers);
  config.hidden = in.Integer(p + "embedding_length", 1, kMaxHidden);
  config.intermediate = in.Integer(p + "feed_forward_length", 1, kMaxIntermediate);
  config.q_heads = in.Integer(p + "attention.head_count", 1, kMaxHeads);
  config.kv_heads = in.Integer(p + "attention.head_count_kv", 1, kMaxHeads, config.q_heads);
  config.head_dim =
      in.Integer(p + "attention.key_length", 1, kMaxHeadDim, config.hidden / config.q_heads);
  config.rms_eps = static_cast<float>(in.Real(p + "attention.layer_norm_rms_epsilon", 1e-12, 0.1));
  config.max_position = in.Integer(p + "context_length", 1, kMaxPosition);
  config.sliding_window = in.Integer(p + "attention.sliding_window", 0, kMaxPosition, 0);
  config.bos = in.Integer("tokenizer.ggml.bos_token_id", -1, kMaxVocab, -1);
  ReadRope(in, arch, path, &config.rope);
  // What would change the answer and is not built.
  const int value_length =
      in.Integer(p + "attention.value_length", 1, kMaxHeadDim, config.head_dim);
  const int rotated = in.Integer(p + "rope.dimension_count", 1, kMaxHeadDim, config.head_dim);
  const int experts = in.Integer(p + "expert_count", 0, kMaxHeads, 0);
  for (const char* name : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const int id = in.Integer(name, -1, kMaxVocab, -1);
    if (id >= 0) config.eos.push_back(id);
  }
  if (!in.status().ok()) return in.status();
  if (value_length != config.head_dim)
    return Unsupported("{}: {}attention.value_length differs from the keys' length", path, p);
  if (rotated != config.head_dim)
    return Unsupported("{}: {}rope.dimension_count {} is not the head dimension {}", path, p,
                       rotated, config.head_dim);
  if (experts > 0)
    return Unsupported("{}: {}expert_count is {}; mixtures of experts are not supported", path, p,
                       experts);

  const TensorView* embedding = FindTensor(file, "token_embd.weight");
  if (!embedding) return InvalidArgument("{}: tensor 'token_embd.weight' is missing", path);
  if (embedding->rows > kMaxVocab)
    return InvalidArgument("{}: tensor 'token_embd.weight' has {} rows, the limit is {}", path,
                           embedding->rows, kMaxVocab);
  config.vocab = static_cast<int>(embedding->rows);
  config.tied_embeddings = FindTensor(file, "output.weight") == nullptr;
  config.qkv_bias = FindTensor(file, "blk.0.attn_q.bias") != nullptr;
  config.qk_norm = config.arch == Architecture::kQwen3;
  if (Status s = FinishConfig(path, &config); !s.ok()) return s;
  if (Status s = ReadFrequencyFactors(file, path, &config); !s.ok()) return s;
  return config;
}

}  // namespace lserve
