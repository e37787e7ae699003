#include "model/weights_hf.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>

#include "model/config_hf.h"
#include "model/hf_json.h"
#include "model/safetensors.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20, kMaxTokenizerBytes = size_t{256} << 20;

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

Result<json> ReadJson(const fs::path& path) {
  Result<std::string> text = ReadFile(path.string(), kMaxConfigBytes);
  if (!text.ok()) return text.status();
  return ParseJsonObject(*text, path.string());
}

// The canonical name of a stored tensor; empty: no model of ours has it.
std::string CanonicalName(std::string_view name) {
  static const std::map<std::string, std::string, std::less<>> kWhole = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"}};
  static const std::map<std::string, std::string, std::less<>> kInLayer = {
      {"input_layernorm.weight", "attn_norm.weight"},
      {"post_attention_layernorm.weight", "ffn_norm.weight"},
      {"self_attn.q_proj.weight", "attn_q.weight"},
      {"self_attn.q_proj.bias", "attn_q.bias"},
      {"self_attn.k_proj.weight", "attn_k.weight"},
      {"self_attn.k_proj.bias", "attn_k.bias"},
      {"self_attn.v_proj.weight", "attn_v.weight"},
      {"self_attn.v_proj.bias", "attn_v.bias"},
      {"self_attn.o_proj.weight", "attn_output.weight"},
      {"self_attn.q_norm.weight", "attn_q_norm.weight"},
      {"self_attn.k_norm.weight", "attn_k_norm.weight"},
      {"mlp.gate_proj.weight", "ffn_gate.weight"},
      {"mlp.up_proj.weight", "ffn_up.weight"},
      {"mlp.down_proj.weight", "ffn_down.weight"}};
  if (const auto found = kWhole.find(name); found != kWhole.end()) return found->second;
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return "";
  name.remove_prefix(kLayers.size());
  int layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (error != std::errc() || layer < 0 || end == name.data() + name.size() || *end != '.')
    return "";
  name.remove_prefix(static_cast<size_t>(end - name.data()) + 1);
  const auto found = kInLayer.find(name);
  return found == kInLayer.end() ? "" : fmt::format("blk.{}.{}", layer, found->second);
}

// The safetensors files of a directory: as the index lists them, else model.safetensors, else all
// there are.
Result<std::set<std::string>> ListShards(const fs::path& directory, json* weight_map) {
  std::set<std::string> shards;
  const fs::path index_path = directory / "model.safetensors.index.json";
  if (Exists(directory / "model.safetensors")) {
    shards.insert("model.safetensors");
  } else if (Exists(index_path)) {
    Result<json> index = ReadJson(index_path);
    if (!index.ok()) return index.status();
    if (!index->contains("weight_map") || !index->at("weight_map").is_object()) {
      return InvalidArgument("{}: weight_map must be an object", index_path.string());
    }
    *weight_map = index->at("weight_map");
    for (const auto& [tensor, shard] : weight_map->items()) {
      const std::string name = shard.is_string() ? shard.get<std::string>() : "";
      // A plain name: an index must not lead out of its directory.
      if (name.empty() || name.find('/') != std::string::npos || !name.ends_with(".safetensors")) {
        return InvalidArgument(
            "{}: the file of tensor '{}' must be the name of a .safetensors file beside it",
            index_path.string(), tensor);
      }
      shards.insert(name);
    }
  } else {
    std::error_code error;
    for (fs::directory_iterator at(directory, error), end; !error && at != end;
         at.increment(error)) {
      if (at->path().extension() == ".safetensors") shards.insert(at->path().filename().string());
    }
  }
  if (shards.empty()) return NotFound("{}: no .safetensors file", directory.string());
  return shards;
}

Status ReadTensors(const fs::path& directory, ModelFiles* files) {
  json weight_map = json::object();
  Result<std::set<std::string>> shards = ListShards(directory, &weight_map);
  if (!shards.ok()) return shards.status();
  std::set<std::string> stored;
  for (const std::string& shard : *shards) {
    const std::string path = (directory / shard).string();
    Result<std::shared_ptr<const MappedFile>> file = MappedFile::Open(path);
    if (!file.ok()) return file.status();
    Result<std::vector<TensorView>> tensors = ParseSafetensors((*file)->bytes(), path);
    if (!tensors.ok()) return tensors.status();
    files->files.push_back(*file);
    for (TensorView& tensor : *tensors) {
      if (!stored.insert(tensor.name).second)
        return InvalidArgument("{}: tensor '{}' is in another file too", path, tensor.name);
      if (tensor.name.ends_with(".rotary_emb.inv_freq"))
        continue;  // older files store what rope.h computes
      std::string name = CanonicalName(tensor.name);
      if (name.empty()) {
        return Unsupported("{}: tensor '{}' has no place in architecture {}", path, tensor.name,
                           ArchitectureName(files->config.arch));
      }
      tensor.name = name;
      files->tensors.emplace(std::move(name), std::move(tensor));
    }
  }
  for (const auto& [tensor, shard] : weight_map.items()) {
    if (!stored.contains(tensor))
      return DataLoss("{}: tensor '{}' is not in {}", directory.string(), tensor,
                      shard.get<std::string>());
  }
  if (files->config.tied_embeddings) files->tensors.erase("output.weight");
  files->config.qkv_bias =
      files->config.arch == Architecture::kQwen2 || files->Find("blk.0.attn_q.bias") != nullptr;
  return Ok();
}

// chat_template of tokenizer_config.json: a string, or a list of named ones of which "default"
// counts.
Status ReadChatTemplate(const json& config, const std::string& file, std::string* source) {
  const auto field = config.find("chat_template");
  if (field == config.end() || field->is_null()) return Ok();
  if (field->is_string()) {
    *source = field->get<std::string>();
    return Ok();
  }
  if (!field->is_array())
    return InvalidArgument("{}: chat_template must be a string or a list", file);
  for (const json& named : *field) {
    if (!named.is_object() || !named.contains("name") || !named.contains("template") ||
        !named.at("template").is_string()) {
      return InvalidArgument("{}: an entry of chat_template needs a name and a template", file);
    }
    if (named.at("name") == "default") *source = named.at("template").get<std::string>();
  }
  return Ok();
}

Status ReadText(const fs::path& directory, ModelFiles* files) {
  const fs::path tokenizer_path = directory / "tokenizer.json",
                 config_path = directory / "tokenizer_config.json";
  Result<std::string> tokenizer = ReadFile(tokenizer_path.string(), kMaxTokenizerBytes);
  if (!tokenizer.ok()) return tokenizer.status();
  std::string config_text;
  if (Exists(config_path)) {
    Result<std::string> text = ReadFile(config_path.string(), kMaxConfigBytes);
    if (!text.ok()) return text.status();
    config_text = *std::move(text);
    Result<json> config = ParseJsonObject(config_text, config_path.string());
    if (!config.ok()) return config.status();
    if (Status s = ReadChatTemplate(*config, config_path.string(), &files->chat_template); !s.ok())
      return s;
  }
  if (const fs::path jinja = directory / "chat_template.jinja"; Exists(jinja)) {
    Result<std::string> text = ReadFile(jinja.string(), kMaxConfigBytes);
    if (!text.ok()) return text.status();
    files->chat_template = *std::move(text);
  }
  Result<TokenizerSpec> spec = ParseTokenizerJson(*tokenizer, config_text, tokenizer_path.string());
  if (!spec.ok()) return spec.status();
  files->tokenizer = *std::move(spec);
  return Ok();
}

}  // namespace

Result<ModelFiles> OpenHfDirectory(const std::string& path) {
  const fs::path directory(path), config_path = directory / "config.json",
                                  generation_path = directory / "generation_config.json";
  Result<json> object = ReadJson(config_path);
  if (!object.ok()) return object.status();
  Result<ModelConfig> config = ConfigFromJson(*object, config_path.string());
  if (!config.ok()) return config.status();
  ModelFiles files;
  files.path = path;
  files.config = *std::move(config);
  const fs::path named = directory.has_filename() ? directory : directory.parent_path();
  files.config.name = named.filename().string();
  if (Exists(generation_path)) {
    Result<json> generation = ReadJson(generation_path);
    if (!generation.ok()) return generation.status();
    if (Status s = ReadEosIds(*generation, generation_path.string(), &files.config.eos); !s.ok())
      return s;
  }
  if (Status s = ReadTensors(directory, &files); !s.ok()) return s;
  if (Status s = ReadText(directory, &files); !s.ok()) return s;
  return files;
}

}  // namespace lserve
