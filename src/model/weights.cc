#include "model/weights.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "model/weights_gguf.h"
#include "model/weights_hf.h"

namespace lserve {
namespace {

// Holds the tensors against the configuration: all that it needs, in the right shapes, and nothing
// else.
class TensorCheck {
 public:
  explicit TensorCheck(const ModelFiles& files) : files_(files) {}

  Status Run() {
    const ModelConfig& c = files_.config;
    const int64_t q = int64_t{c.q_heads} * c.head_dim, kv = int64_t{c.kv_heads} * c.head_dim;
    Matrix("token_embd.weight", c.vocab, c.hidden);
    Vector("output_norm.weight", c.hidden);
    if (!c.tied_embeddings) Matrix("output.weight", c.vocab, c.hidden);
    for (int layer = 0; layer < c.layers && error_.ok(); ++layer) {
      const std::string p = fmt::format("blk.{}.", layer);
      Vector(p + "attn_norm.weight", c.hidden);
      Matrix(p + "attn_q.weight", q, c.hidden);
      Matrix(p + "attn_k.weight", kv, c.hidden);
      Matrix(p + "attn_v.weight", kv, c.hidden);
      Matrix(p + "attn_output.weight", c.hidden, q);
      if (c.qkv_bias) {
        Vector(p + "attn_q.bias", q);
        Vector(p + "attn_k.bias", kv);
        Vector(p + "attn_v.bias", kv);
      }
      if (c.qk_norm) {
        Vector(p + "attn_q_norm.weight", c.head_dim);
        Vector(p + "attn_k_norm.weight", c.head_dim);
      }
      Vector(p + "ffn_norm.weight", c.hidden);
      Matrix(p + "ffn_gate.weight", c.intermediate, c.hidden);
      Matrix(p + "ffn_up.weight", c.intermediate, c.hidden);
      Matrix(p + "ffn_down.weight", c.hidden, c.intermediate);
    }
    if (!error_.ok()) return error_;
    for (const auto& [name, tensor] : files_.tensors) {
      if (!known_.contains(name)) {
        return Unsupported("{}: tensor '{}' has no place in this model of architecture {}",
                           files_.path, name, ArchitectureName(c.arch));
      }
    }
    return Ok();
  }

 private:
  void Matrix(const std::string& name, int64_t rows, int64_t cols) {
    known_.insert(name);
    const TensorView* tensor = files_.Find(name);
    if (!tensor) return Fail(InvalidArgument("{}: tensor '{}' is missing", files_.path, name));
    if (tensor->rows == rows && tensor->cols == cols) return;
    Fail(InvalidArgument("{}: tensor '{}' is [{}][{}], the configuration asks for [{}][{}]",
                         files_.path, name, tensor->rows, tensor->cols, rows, cols));
  }
  void Vector(const std::string& name, int64_t elements) {
    Matrix(name, 1, elements);
    const TensorView* tensor = files_.Find(name);
    if (tensor && !IsFloat(tensor->dtype)) {
      Fail(Unsupported("{}: tensor '{}' has type {}; vectors must be F32, F16 or BF16", files_.path,
                       name, Info(tensor->dtype).name));
    }
  }
  void Fail(Status error) {
    if (error_.ok()) error_ = std::move(error);
  }

  const ModelFiles& files_;
  std::set<std::string, std::less<>> known_;
  Status error_;
};

int32_t FindSpecial(const TokenizerSpec& tokenizer, std::string_view text) {
  for (const TokenizerSpec::AddedToken& token : tokenizer.added) {
    if (token.special && token.text == text) return token.id;
  }
  return -1;
}

// Besides the ids that the files name: the tokenizer's own, and what chat models end a turn with
// although their files forget it.
Status CompleteEos(ModelFiles* files) {
  ModelConfig& c = files->config;
  const auto add = [&](int32_t id) {
    if (id >= 0 && std::find(c.eos.begin(), c.eos.end(), id) == c.eos.end()) c.eos.push_back(id);
  };
  add(files->tokenizer.eos);
  for (const std::string_view text : {"<|im_end|>", "<|eot_id|>", "<|eom_id|>"}) {
    if (files->chat_template.find(text) != std::string::npos)
      add(FindSpecial(files->tokenizer, text));
  }
  if (!files->chat_template.empty()) {
    for (const std::string_view text : {"<|endoftext|>", "<|end_of_text|>"})
      add(FindSpecial(files->tokenizer, text));
  }
  if (c.bos < 0) c.bos = files->tokenizer.bos;
  for (const int32_t id : c.eos) {
    if (id >= c.vocab)
      return InvalidArgument("{}: end token {} is outside the vocabulary of {}", files->path, id,
                             c.vocab);
  }
  if (c.bos >= c.vocab)
    return InvalidArgument("{}: start token {} is outside the vocabulary of {}", files->path, c.bos,
                           c.vocab);
  return Ok();
}

Status CheckTokenizer(const ModelFiles& files) {
  size_t size = files.tokenizer.vocab.size();
  while (size > 0 && files.tokenizer.vocab[size - 1].empty()) --size;
  for (const TokenizerSpec::AddedToken& token : files.tokenizer.added)
    size = std::max(size, static_cast<size_t>(token.id) + 1);
  if (size <= static_cast<size_t>(files.config.vocab)) return Ok();
  return InvalidArgument("{}: the tokenizer has {} tokens, the model {}", files.path, size,
                         files.config.vocab);
}

}  // namespace

Result<ModelFiles> OpenModel(const std::string& path) {
  std::error_code ignored;
  Result<ModelFiles> files =
      std::filesystem::is_directory(path, ignored) ? OpenHfDirectory(path) : OpenGguf(path);
  if (!files.ok()) return files;
  if (Status s = TensorCheck(*files).Run(); !s.ok()) return s;
  if (Status s = CheckTokenizer(*files); !s.ok()) return s;
  if (Status s = CompleteEos(&*files); !s.ok()) return s;
  return files;
}

}  // namespace lserve
