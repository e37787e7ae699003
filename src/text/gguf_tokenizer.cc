#include "text/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "text/tokenizer_json_steps.h"

namespace lserve {
namespace {

// tokenizer.ggml.token_type
enum TokenType : int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

constexpr char kSpace[] = "\xe2\x96\x81";  // U+2581

constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen35[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|)"
                           R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekken[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kGpt4o[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kDeepSeekV3Words[] =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kKanaAndHan[] = R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)";

struct PreTokenizer {
  std::vector<std::string_view> names;
  std::vector<const char*> patterns;
  bool ignore_merges = false, nfc = false;
};

// What the names mean is what the models they come from do.
const std::vector<PreTokenizer>& PreTokenizers() {
  static const std::vector<PreTokenizer> all = {
      {{"llama3", "llama-v3", "llama-bpe", "falcon3"}, {kLlama3}, true, false},
      {{"smaug-bpe", "dbrx", "chatglm-bpe", "gpt-4"}, {kLlama3}, false, false},
      {{"qwen2", "deepseek-r1-qwen", "stablelm2"}, {kQwen2}, false, true},
      {{"qwen35"}, {kQwen35}, false, true},
      {{"tekken", "pixtral"}, {kTekken}, true, false},
      {{"gpt-4o", "llama4", "o200k"}, {kGpt4o}, true, false},
      {{"deepseek-v3"}, {R"(\p{N}{1,3})", kKanaAndHan, kDeepSeekV3Words}, false, false},
      {{"gpt-2", "gpt2", "phi-2", "olmo", "mpt"}, {text::kGpt2Pattern}, false, false},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"},
       {R"(\p{N})", text::kGpt2Pattern},
       false,
       false},
      // Files that do not say: punctuation apart, GPT-2's words, digits in threes.
      {{"default", ""},
       {R"([\p{P}\$\+<=>\^~\|]+)", text::kGpt2Pattern, R"(\p{N}+)", R"([0-9][0-9][0-9])"},
       false,
       false},
  };
  return all;
}

std::string SpacesBack(std::string piece) {
  for (size_t at; (at = piece.find(kSpace)) != std::string::npos;) {
    piece.replace(at, sizeof(kSpace) - 1, " ");
  }
  return piece;
}

Status CheckArrays(const GgufTokenizer& gguf) {
  const size_t count = gguf.tokens.size();
  if (gguf.model != "gpt2" && gguf.model != "llama") {
    return Unsupported("tokenizer.ggml.model: \"{}\", only gpt2 and llama are known", gguf.model);
  }
  if (!gguf.token_types.empty() && gguf.token_types.size() != count) {
    return InvalidArgument("tokenizer.ggml.token_type: {} values for {} tokens",
                           gguf.token_types.size(), count);
  }
  if (!gguf.scores.empty() && gguf.scores.size() != count) {
    return InvalidArgument("tokenizer.ggml.scores: {} values for {} tokens", gguf.scores.size(),
                           count);
  }
  if (gguf.merges.empty() && (gguf.model == "gpt2" || gguf.scores.empty())) {
    return InvalidArgument("tokenizer.ggml.merges: missing");
  }
  struct Id {
    const char* name;
    int32_t value;
  };
  for (const Id& id : {Id{"bos", gguf.bos}, Id{"eos", gguf.eos}, Id{"unknown", gguf.unk}}) {
    if (id.value >= 0 && static_cast<size_t>(id.value) >= count) {
      return InvalidArgument("tokenizer.ggml.{}_token_id: {} of {} tokens", id.name, id.value,
                             count);
    }
  }
  return Ok();
}

// Control and user-defined tokens are added tokens; those and byte tokens are never merged.
void SortTypes(const GgufTokenizer& gguf, TokenizerSpec* spec) {
  for (size_t i = 0; i < gguf.token_types.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const int32_t type = gguf.token_types[i];
    if (type == kByte || type == kUnknown || type == kUnused) spec->unmergeable.push_back(id);
    if ((type != kControl && type != kUserDefined && type != kUnknown) || gguf.tokens[i].empty()) {
      continue;
    }
    TokenizerSpec::AddedToken token;
    token.id = id;
    token.special = type != kUserDefined;
    token.text = spec->model == TokenizerSpec::Model::kSentencePieceBpe && !token.special
                     ? SpacesBack(gguf.tokens[i])
                     : gguf.tokens[i];
    spec->added.push_back(std::move(token));
  }
}

}  // namespace

Status ApplyGgufPreTokenizer(const std::string& pre, TokenizerSpec* spec) {
  for (const PreTokenizer& known : PreTokenizers()) {
    if (std::find(known.names.begin(), known.names.end(), pre) == known.names.end()) continue;
    spec->split.clear();
    for (const char* pattern : known.patterns) {
      spec->split.emplace_back();
      spec->split.back().pattern = pattern;
    }
    spec->normalize.clear();
    if (known.nfc) spec->normalize.emplace_back();
    spec->ignore_merges = known.ignore_merges;
    return Ok();
  }
  return Unsupported("tokenizer.ggml.pre: \"{}\" is not known", pre);
}

Result<TokenizerSpec> GgufTokenizerSpec(GgufTokenizer gguf) {
  if (Status s = CheckArrays(gguf); !s.ok()) return s;
  TokenizerSpec spec;
  const bool sentence_piece = gguf.model == "llama";
  spec.model = sentence_piece ? TokenizerSpec::Model::kSentencePieceBpe
                              : TokenizerSpec::Model::kByteLevelBpe;
  spec.bos = gguf.bos;
  spec.eos = gguf.eos;
  if (sentence_piece) {
    spec.byte_fallback = true;
    spec.unk = gguf.unk;
    using Kind = TokenizerSpec::NormalizeStep::Kind;
    if (gguf.add_space_prefix.value_or(true)) {
      spec.normalize.push_back({Kind::kPrepend, "", kSpace});
      spec.strip_leading_space = true;
    }
    spec.normalize.push_back({Kind::kReplace, " ", kSpace});
  } else {
    if (Status s = ApplyGgufPreTokenizer(gguf.pre, &spec); !s.ok()) return s;
    if (gguf.add_space_prefix.value_or(false)) {
      TokenizerSpec::SplitStep prefix;
      prefix.kind = TokenizerSpec::SplitStep::Kind::kPrefixSpace;
      spec.split.insert(spec.split.begin(), prefix);
    }
  }
  SortTypes(gguf, &spec);
  for (size_t i = 0; i < gguf.merges.size(); ++i) {
    // A piece may itself be a space, so the first character does not part the two.
    const std::string& merge = gguf.merges[i];
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos) {
      return InvalidArgument("tokenizer.ggml.merges[{}]: not two pieces with a space between", i);
    }
    spec.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  // Llama 3's GGUFs may leave add_bos_token out.
  const bool habit = sentence_piece || gguf.pre == "llama-bpe" || gguf.pre == "llama3" ||
                     gguf.pre == "llama-v3" || gguf.pre == "tekken";
  if (gguf.add_bos.value_or(habit) && gguf.bos >= 0) spec.prefix = {gguf.bos};
  if (gguf.add_eos.value_or(false) && gguf.eos >= 0) spec.suffix = {gguf.eos};
  spec.vocab = std::move(gguf.tokens);
  if (spec.merges.empty()) spec.scores = std::move(gguf.scores);
  return spec;
}

}  // namespace lserve
