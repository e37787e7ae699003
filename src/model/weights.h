// A model on disk, opened: configuration, tensors, tokenizer data and chat template, from a GGUF
// file or a Hugging Face directory. Everything in these files is treated as hostile; errors name
// the file and the field.
//
// Canonical tensor names (those of GGUF):  token_embd, output_norm, output (absent when tied), and
// for layer N: blk.N.attn_norm, blk.N.attn_q, blk.N.attn_k, blk.N.attn_v, blk.N.attn_output,
// blk.N.attn_q_norm, blk.N.attn_k_norm, blk.N.ffn_norm, blk.N.ffn_gate, blk.N.ffn_up,
// blk.N.ffn_down; each followed by
// ".weight" or, for QKV biases, ".bias".
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/status.h"
#include "core/tensor.h"
#include "model/config.h"
#include "text/tokenizer.h"

namespace lserve {

struct ModelFiles {
  std::string path;  // as given
  ModelConfig config;
  std::map<std::string, TensorView, std::less<>> tensors;  // canonical name -> view into `files`
  TokenizerSpec tokenizer;
  std::string chat_template;                             // Jinja source; empty: the model has none
  std::vector<std::shared_ptr<const MappedFile>> files;  // keep the views alive

  const TensorView* Find(std::string_view name) const {
    const auto found = tensors.find(name);
    return found == tensors.end() ? nullptr : &found->second;
  }
};

// `path`: a .gguf file or a directory with config.json, *.safetensors and tokenizer.json. All
// tensors that the configuration needs are present with the right shapes when this succeeds.
Result<ModelFiles> OpenModel(const std::string& path);

}  // namespace lserve
