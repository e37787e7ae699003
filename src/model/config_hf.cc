#include "model/config_hf.h"

#include <algorithm>
#include <cmath>

#include "model/config_fields.h"

namespace lserve {
namespace {

using nlohmann::json;

class JsonFields : public ConfigFields {
 public:
  JsonFields(const json& object, const std::string& file) : ConfigFields(file), object_(object) {}
  bool Has(const std::string& name) const override {
    return object_.contains(name) && !object_.at(name).is_null();
  }
  bool IsNull(const std::string& name) const {
    return object_.contains(name) && object_.at(name).is_null();
  }
  const json& at(const std::string& name) const { return object_.at(name); }

 protected:
  std::optional<int64_t> GetInteger(const std::string& name) const override {
    const json& value = object_.at(name);
    // Some files write whole numbers with a point ("original_max_position_embeddings": 8192.0).
    if (value.is_number_float()) {
      const double real = value.get<double>();
      if (real != std::floor(real) || std::abs(real) > 1e15) return std::nullopt;
      return static_cast<int64_t>(real);
    }
    if (!value.is_number_integer()) return std::nullopt;
    if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) return std::nullopt;
    return value.get<int64_t>();
  }
  std::optional<double> GetReal(const std::string& name) const override {
    const json& value = object_.at(name);
    return value.is_number() ? std::optional<double>(value.get<double>()) : std::nullopt;
  }
  std::optional<bool> GetBool(const std::string& name) const override {
    const json& value = object_.at(name);
    return value.is_boolean() ? std::optional<bool>(value.get<bool>()) : std::nullopt;
  }
  std::optional<std::string> GetString(const std::string& name) const override {
    const json& value = object_.at(name);
    return value.is_string() ? std::optional<std::string>(value.get<std::string>()) : std::nullopt;
  }

 private:
  const json& object_;
};

// `rope` is "rope_parameters" (transformers 5) or "rope_scaling", or an empty object; in the older
// form theta is beside it.
void ReadRopeScaling(JsonFields& rope, const std::string& file, ModelConfig* config) {
  RopeConfig& out = config->rope;
  const std::string kind = rope.String("rope_type", rope.String("type", "default"));
  if (rope.Has("partial_rotary_factor") && rope.Real("partial_rotary_factor", 0, 1) != 1) {
    rope.Fail(Unsupported("{}: partial_rotary_factor other than 1", file));
  }
  out.original_max_position =
      rope.Integer("original_max_position_embeddings", 1, kMaxPosition, config->max_position);
  if (kind == "default") return;
  if (kind == "linear") {
    out.kind = RopeConfig::Kind::kLinear;
  } else if (kind == "dynamic") {
    out.kind = RopeConfig::Kind::kDynamic;
    out.original_max_position = config->max_position;
  } else if (kind == "llama3") {
    out.kind = RopeConfig::Kind::kLlama3;
    out.low_freq_factor = rope.Real("low_freq_factor", 1e-3, 1e6);
    out.high_freq_factor = rope.Real("high_freq_factor", 1e-3, 1e6);
  } else if (kind == "yarn") {
    out.kind = RopeConfig::Kind::kYarn;
    out.beta_fast = rope.Real("beta_fast", 1e-3, 1e6, 32);
    out.beta_slow = rope.Real("beta_slow", 1e-3, 1e6, 1);
    out.attention_factor = rope.Real("attention_factor", 0, 1e3, 0);
    out.mscale = rope.Real("mscale", 0, 1e3, 0);
    out.mscale_all_dim = rope.Real("mscale_all_dim", 0, 1e3, 0);
    out.truncate = rope.Bool("truncate", true);
  } else {
    rope.Fail(Unsupported(
        "{}: rope kind '{}'; supported are default, linear, llama3, yarn and dynamic", file, kind));
    return;
  }
  // YaRN files without a factor mean the ratio of the two lengths.
  std::optional<double> fallback;
  if (kind == "yarn")
    fallback = static_cast<double>(config->max_position) / out.original_max_position;
  out.factor = rope.Real("factor", 1, kMaxRopeFactor, fallback);
}

void ReadRope(JsonFields& in, const std::string& file, ModelConfig* config) {
  const char* name = in.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  static const json kNone = json::object();
  const json& object = in.Has(name) ? in.at(name) : kNone;
  if (!object.is_object())
    return in.Fail(InvalidArgument("{}: {} must be an object or null", file, name));
  JsonFields rope(object, file + ": " + name);
  config->rope.theta = rope.Has("rope_theta") ? rope.Real("rope_theta", 1.0001, kMaxTheta)
                                              : in.Real("rope_theta", 1.0001, kMaxTheta, 10000);
  ReadRopeScaling(rope, file, config);
  if (!rope.status().ok()) in.Fail(rope.status());
}

// Which layers have a window: all or none; models that mix them are not supported.
void ReadSlidingWindow(JsonFields& in, const std::string& file, ModelConfig* config) {
  const bool mistral = config->arch == Architecture::kMistral;
  // transformers' default where the field is absent; null means none.
  const bool absent = !in.Has("sliding_window");
  int window = in.Integer("sliding_window", 1, kMaxPosition, 0);
  if (mistral && absent && !in.IsNull("sliding_window")) window = 4096;
  bool windowed = mistral ? window > 0 : in.Bool("use_sliding_window", false) && window > 0;
  if (in.Has("layer_types")) {
    const json& types = in.at("layer_types");
    if (!types.is_array()) return in.Fail(InvalidArgument("{}: layer_types must be a list", file));
    const auto sliding = std::count(types.begin(), types.end(), json("sliding_attention"));
    const auto full = std::count(types.begin(), types.end(), json("full_attention"));
    if (full != config->layers && sliding != config->layers) {
      return in.Fail(Unsupported("{}: layer_types must be the same known type for all {} layers",
                                 file, config->layers));
    }
    windowed = sliding > 0 && window > 0;
  } else if (windowed && !mistral) {
    const int from = in.Integer("max_window_layers", 0, kMaxLayers, 28);
    if (from > 0 && from < config->layers) {
      return in.Fail(
          Unsupported("{}: max_window_layers {}: windows in only some layers", file, from));
    }
    windowed = from == 0;
  }
  config->sliding_window = windowed ? window : 0;
}

Result<Architecture> ReadArchitecture(JsonFields& in, const std::string& file) {
  const std::string type = in.String("model_type", "");
  if (!in.status().ok()) return in.status();
  if (type.empty()) return InvalidArgument("{}: model_type is missing", file);
  if (in.Has("architectures")) {
    const json& names = in.at("architectures");
    if (!names.is_array() || names.empty() || !names[0].is_string())
      return InvalidArgument("{}: architectures must be a list of names", file);
    const std::string name = names[0];
    if (!name.ends_with("ForCausalLM"))
      return Unsupported("{}: architecture '{}' is not a causal language model", file, name);
  }
  if (type == "llama") return Architecture::kLlama;
  if (type == "mistral") return Architecture::kMistral;
  if (type == "qwen2") return Architecture::kQwen2;
  if (type == "qwen3") return Architecture::kQwen3;
  return Unsupported("{}: model_type '{}'; supported are llama, mistral, qwen2 and qwen3", file,
                     type);
}

}  // namespace

Result<ModelConfig> ConfigFromJson(const json& object, const std::string& file) {
  JsonFields in(object, file);
  ModelConfig config;
  Result<Architecture> arch = ReadArchitecture(in, file);
  if (!arch.ok()) return arch.status();
  config.arch = *arch;
  if (in.Has("quantization_config"))
    return Unsupported("{}: quantization_config: quantised checkpoints are only read as GGUF",
                       file);
  config.layers = in.Integer("num_hidden_layers", 1, kMaxLayers);
  config.hidden = in.Integer("hidden_size", 1, kMaxHidden);
  config.intermediate = in.Integer("intermediate_size", 1, kMaxIntermediate);
  config.vocab = in.Integer("vocab_size", 1, kMaxVocab);
  config.q_heads = in.Integer("num_attention_heads", 1, kMaxHeads);
  config.kv_heads = in.Integer("num_key_value_heads", 1, kMaxHeads,
                               config.arch == Architecture::kMistral ? 8 : config.q_heads);
  config.head_dim =
      in.Integer("head_dim", 1, kMaxHeadDim,
                 config.arch == Architecture::kQwen3 ? 128 : config.hidden / config.q_heads);
  config.rms_eps = static_cast<float>(in.Real("rms_norm_eps", 1e-12, 0.1, 1e-6));
  config.max_position = in.Integer("max_position_embeddings", 1, kMaxPosition);
  config.tied_embeddings = in.Bool("tie_word_embeddings", false);
  config.qk_norm = config.arch == Architecture::kQwen3;
  config.bos = in.Integer("bos_token_id", -1, kMaxVocab, -1);
  const std::string activation = in.String("hidden_act", "silu");
  ReadRope(in, file, &config);
  ReadSlidingWindow(in, file, &config);
  if (in.Has("partial_rotary_factor") && in.Real("partial_rotary_factor", 0, 1) != 1) {
    in.Fail(Unsupported("{}: partial_rotary_factor other than 1", file));
  }
  if (!in.status().ok()) return in.status();
  if (activation != "silu")
    return Unsupported("{}: hidden_act '{}'; supported is silu", file, activation);
  if (Status s = ReadEosIds(object, file, &config.eos); !s.ok()) return s;
  if (Status s = FinishConfig(file, &config); !s.ok()) return s;
  return config;
}

Status ReadEosIds(const json& object, const std::string& file, std::vector<int32_t>* eos) {
  const auto field = object.find("eos_token_id");
  if (field == object.end() || field->is_null()) return Ok();
  const json list = field->is_array() ? *field : json::array({*field});
  for (const json& id : list) {
    if (!id.is_number_integer() ||
        (id.is_number_unsigned() ? id.get<uint64_t>() > uint64_t{kMaxVocab}
                                 : id.get<int64_t>() < 0)) {
      return InvalidArgument("{}: eos_token_id must be a token id or a list of them", file);
    }
    const int32_t value = id.get<int32_t>();
    if (std::find(eos->begin(), eos->end(), value) == eos->end()) eos->push_back(value);
  }
  return Ok();
}

}  // namespace lserve
