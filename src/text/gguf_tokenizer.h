// A tokenizer from the metadata of a GGUF file (tokenizer.ggml.*), which the caller has read into
// plain arrays. Pure functions; errors name the metadata key, not the file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "text/tokenizer.h"

namespace lserve {

struct GgufTokenizer {
  std::string model;                     // tokenizer.ggml.model: "gpt2" or "llama"
  std::string pre;                       // .pre; empty: "default"
  std::vector<std::string> tokens;       // .tokens
  std::vector<int32_t> token_types;      // .token_type; may be empty
  std::vector<float> scores;             // .scores; may be empty
  std::vector<std::string> merges;       // .merges, "left right"; may be empty for "llama"
  int32_t bos = -1, eos = -1, unk = -1;  // .bos_token_id, ...; -1: none
  // .add_bos_token, .add_eos_token, .add_space_prefix; without a value: the model's habit.
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

Result<TokenizerSpec> GgufTokenizerSpec(GgufTokenizer gguf);

}  // namespace lserve
