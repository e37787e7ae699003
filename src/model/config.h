// What a decoder-only transformer of the supported families looks like, read from a GGUF's metadata
// or a config.json and checked once: every number is in a range that the rest of the program may
// rely on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lserve {

enum class Architecture { kLlama, kMistral, kQwen2, kQwen3 };

// Rotary embedding. Frequencies are made by model/rope.h.
struct RopeConfig {
  enum class Kind { kDefault, kLinear, kLlama3, kYarn, kDynamic };
  Kind kind = Kind::kDefault;
  double theta = 10000;
  double factor = 1;
  int original_max_position = 0;                     // llama3, yarn, dynamic
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  double attention_factor = 0;                       // yarn; 0: from `factor`
  double mscale = 0, mscale_all_dim = 0;             // yarn; 0: unset
  bool truncate = true;  // yarn: round the borders of the blend to whole frequencies
  std::vector<float>
      frequency_factors;  // [D/2] or empty: divide the frequencies (rope_freqs.weight of GGUFs)
};

struct ModelConfig {
  Architecture arch = Architecture::kLlama;
  std::string name;  // as the file calls itself, for /v1/models and logs
  int layers = 0, hidden = 0, intermediate = 0, vocab = 0;
  int q_heads = 0, kv_heads = 0, head_dim = 0;
  float rms_eps = 1e-5f;
  RopeConfig rope;
  int max_position = 0;    // longest context the model claims, rope scaling included
  int sliding_window = 0;  // 0: none
  bool tied_embeddings = false;
  bool qkv_bias = false, qk_norm = false;
  int32_t bos = -1;          // -1: none
  std::vector<int32_t> eos;  // every id that ends a generation

  int group() const { return q_heads / kv_heads; }
};

const char* ArchitectureName(Architecture arch);

}  // namespace lserve
