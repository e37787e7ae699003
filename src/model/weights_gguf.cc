#include "model/weights_gguf.h"

#include "model/config_gguf.h"
#include "model/gguf.h"
#include "model/gguf_tokenizer_spec.h"

namespace lserve {

Result<ModelFiles> OpenGguf(const std::string& path) {
  Result<std::shared_ptr<const MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  Result<GgufFile> gguf = ParseGguf((*file)->bytes(), path);
  if (!gguf.ok()) return gguf.status();
  if (const GgufValue* split = gguf->Find("split.count");
      split && split->Integer().value_or(2) > 1) {
    return Unsupported("{}: split.count: a model in several GGUF files; join them first", path);
  }
  Result<ModelConfig> config = ConfigFromGguf(*gguf, path);
  if (!config.ok()) return config.status();
  Result<TokenizerSpec> tokenizer = TokenizerFromGguf(*gguf, path);
  if (!tokenizer.ok()) return tokenizer.status();

  ModelFiles files;
  files.path = path;
  files.config = *std::move(config);
  files.tokenizer = *std::move(tokenizer);
  if (const GgufValue* chat = gguf->Find("tokenizer.chat_template")) {
    std::optional<std::string> source = chat->String();
    if (!source) return InvalidArgument("{}: tokenizer.chat_template must be a string", path);
    files.chat_template = *std::move(source);
  }
  files.files.push_back(*file);
  for (TensorView& tensor : gguf->tensors) {
    if (tensor.name == "rope_freqs.weight") continue;  // ConfigFromGguf has read it
    if (files.config.arch == Architecture::kLlama) {
      const std::string_view name = tensor.name;
      if (name.ends_with(".attn_q.weight") || name.ends_with(".attn_q.bias"))
        tensor.interleaved_heads = files.config.q_heads;
      if (name.ends_with(".attn_k.weight") || name.ends_with(".attn_k.bias"))
        tensor.interleaved_heads = files.config.kv_heads;
    }
    std::string name = tensor.name;
    files.tensors.emplace(std::move(name), std::move(tensor));
  }
  return files;
}

}  // namespace lserve
