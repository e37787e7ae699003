#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "text/tokenizer.h"
#include "text/tokenizer_json_steps.h"

namespace lserve {
namespace {

using text::BoolField;
using text::Json;
using text::StringField;

constexpr int64_t kMaxId = 1'000'000;

const Json& Member(const Json& object, const char* name) {
  static const Json null;
  const auto found = object.find(name);
  return found == object.end() ? null : *found;
}

Result<Json> ParseObject(const std::string& source) {
  try {
    Json json = Json::parse(source);
    if (!json.is_object()) return InvalidArgument("not a JSON object");
    return json;
  } catch (const std::exception& e) {
    return InvalidArgument("not JSON: {}", e.what());
  }
}

Status ParseVocab(const Json& vocab, TokenizerSpec* spec) {
  if (!vocab.is_object()) return InvalidArgument("model.vocab: not an object");
  for (const auto& [piece, id] : vocab.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxId) {
      return InvalidArgument("model.vocab: the id of \"{}\" is not a number below {}", piece,
                             kMaxId);
    }
    const auto index = id.get<size_t>();
    if (index >= spec->vocab.size()) spec->vocab.resize(index + 1);
    if (!spec->vocab[index].empty()) {
      return InvalidArgument("model.vocab: \"{}\" and \"{}\" have the same id", piece,
                             spec->vocab[index]);
    }
    spec->vocab[index] = piece;
  }
  return Ok();
}

Status ParseMerges(const Json& merges, TokenizerSpec* spec) {
  if (!merges.is_array()) return InvalidArgument("model.merges: not a list");
  spec->merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      spec->merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    if (!merge.is_string()) return InvalidArgument("model.merges[{}]: not a pair of pieces", i);
    const auto& joined = merge.get_ref<const std::string&>();
    const size_t space = joined.find(' ');
    if (space == std::string::npos || joined.find(' ', space + 1) != std::string::npos) {
      return InvalidArgument("model.merges[{}]: not two pieces with a space between", i);
    }
    spec->merges.emplace_back(joined.substr(0, space), joined.substr(space + 1));
  }
  return Ok();
}

// A field that must be absent, null, zero or empty, because anything else would change ids.
Status RequireUnset(const Json& model, const char* name) {
  const Json& field = Member(model, name);
  const bool unset = field.is_null() || (field.is_number() && field == 0) ||
                     (field.is_string() && field.get_ref<const std::string&>().empty());
  return unset ? Ok() : Unsupported("model.{}: {}", name, field.dump(-1, ' ', true));
}

Status ParseModel(const Json& model, TokenizerSpec* spec) {
  if (!model.is_object()) return InvalidArgument("model: not an object");
  Result<std::string> type = StringField(model, "type", "BPE", "model");
  if (!type.ok()) return type.status();
  if (*type != "BPE") return Unsupported("model.type: \"{}\", only BPE is known", *type);
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    if (Status s = RequireUnset(model, name); !s.ok()) return s;
  }
  struct Flag {
    const char* name;
    bool* value;
  };
  for (const Flag& flag :
       {Flag{"fuse_unk", &spec->fuse_unk}, Flag{"byte_fallback", &spec->byte_fallback},
        Flag{"ignore_merges", &spec->ignore_merges}}) {
    Result<bool> value = BoolField(model, flag.name, false, "model");
    if (!value.ok()) return value.status();
    *flag.value = *value;
  }
  if (Status s = ParseVocab(Member(model, "vocab"), spec); !s.ok()) return s;
  if (Status s = ParseMerges(Member(model, "merges"), spec); !s.ok()) return s;
  Result<std::string> unk = StringField(model, "unk_token", "", "model");
  if (!unk.ok()) return unk.status();
  if (!unk->empty()) {
    const auto found = std::find(spec->vocab.begin(), spec->vocab.end(), *unk);
    if (found == spec->vocab.end()) {
      return InvalidArgument("model.unk_token: \"{}\" is not in the vocabulary", *unk);
    }
    spec->unk = static_cast<int32_t>(found - spec->vocab.begin());
  }
  return Ok();
}

Result<TokenizerSpec::AddedToken> ParseAddedToken(const Json& json, const std::string& where) {
  if (!json.is_object()) return InvalidArgument("{}: not an object", where);
  TokenizerSpec::AddedToken token;
  Result<std::string> content = StringField(json, "content", "", where);
  if (!content.ok()) return content.status();
  token.text = *content;
  struct Flag {
    const char* name;
    bool* value;
  };
  for (const Flag& flag : {Flag{"special", &token.special}, Flag{"lstrip", &token.lstrip},
                           Flag{"rstrip", &token.rstrip}, Flag{"single_word", &token.single_word},
                           Flag{"normalized", &token.normalized}}) {
    Result<bool> value = BoolField(json, flag.name, false, where);
    if (!value.ok()) return value.status();
    *flag.value = *value;
  }
  return token;
}

// Where the vocabulary has the text of an added token, its id counts.
Status ParseAddedTokens(const Json& list, const Json& vocab, TokenizerSpec* spec) {
  if (list.is_null()) return Ok();
  if (!list.is_array()) return InvalidArgument("added_tokens: not a list");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = fmt::format("added_tokens[{}]", i);
    Result<TokenizerSpec::AddedToken> token = ParseAddedToken(list[i], where);
    if (!token.ok()) return token.status();
    const Json& id = Member(list[i], "id");
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxId) {
      return InvalidArgument("{}.id: not a number below {}", where, kMaxId);
    }
    const auto piece = vocab.find(token->text);
    token->id = piece == vocab.end() ? id.get<int32_t>() : piece->get<int32_t>();
    spec->added.push_back(std::move(*token));
  }
  return Ok();
}

// tokenizer_config.json's added_tokens_decoder: more added tokens, or other flags for them.
Status OverlayAddedTokens(const Json& decoder, TokenizerSpec* spec) {
  if (decoder.is_null()) return Ok();
  if (!decoder.is_object()) return InvalidArgument("added_tokens_decoder: not an object");
  std::unordered_map<int32_t, size_t> known;
  for (size_t i = 0; i < spec->added.size(); ++i) known[spec->added[i].id] = i;
  for (const auto& [key, value] : decoder.items()) {
    const std::string where = fmt::format("added_tokens_decoder.{}", key);
    const bool digits =
        !key.empty() && key.size() <= 7 && key.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || std::stol(key) >= kMaxId) return InvalidArgument("{}: not an id", where);
    Result<TokenizerSpec::AddedToken> token = ParseAddedToken(value, where);
    if (!token.ok()) return token.status();
    token->id = static_cast<int32_t>(std::stol(key));
    if (const auto found = known.find(token->id); found == known.end()) {
      spec->added.push_back(std::move(*token));
    } else if (spec->added[found->second].text == token->text) {
      spec->added[found->second] = std::move(*token);
    } else {
      return InvalidArgument("{}: \"{}\", but tokenizer.json has \"{}\" there", where, token->text,
                             spec->added[found->second].text);
    }
  }
  return Ok();
}

int32_t FindId(const TokenizerSpec& spec, const std::string& text) {
  for (const TokenizerSpec::AddedToken& token : spec.added) {
    if (token.text == text) return token.id;
  }
  const auto found = std::find(spec.vocab.begin(), spec.vocab.end(), text);
  return found == spec.vocab.end() ? -1 : static_cast<int32_t>(found - spec.vocab.begin());
}

// bos_token or eos_token: a string, or an object with its content; -1 where there is none.
Result<int32_t> TokenField(const Json& config, const char* name, const TokenizerSpec& spec) {
  const Json& field = Member(config, name);
  if (field.is_null()) return -1;
  const Json& content = field.is_object() ? Member(field, "content") : field;
  if (!content.is_string()) return InvalidArgument("{}: not a token", name);
  const auto& text = content.get_ref<const std::string&>();
  const int32_t id = text.empty() ? -1 : FindId(spec, text);
  if (id < 0 && !text.empty())
    return InvalidArgument("{}: \"{}\" is not a known token", name, text);
  return id;
}

Status ParseConfig(const Json& config, TokenizerSpec* spec) {
  if (Status s = OverlayAddedTokens(Member(config, "added_tokens_decoder"), spec); !s.ok())
    return s;
  Result<int32_t> bos = TokenField(config, "bos_token", *spec);
  if (!bos.ok()) return bos.status();
  Result<int32_t> eos = TokenField(config, "eos_token", *spec);
  if (!eos.ok()) return eos.status();
  if (*bos >= 0) spec->bos = *bos;
  if (*eos >= 0) spec->eos = *eos;

  // Where these are set, they overrule the post-processor.
  Result<bool> add_bos =
      BoolField(config, "add_bos_token", !spec->prefix.empty(), "tokenizer_config");
  if (!add_bos.ok()) return add_bos.status();
  Result<bool> add_eos =
      BoolField(config, "add_eos_token", !spec->suffix.empty(), "tokenizer_config");
  if (!add_eos.ok()) return add_eos.status();
  if (*add_bos && spec->prefix.empty() && spec->bos >= 0) spec->prefix = {spec->bos};
  if (!*add_bos && spec->prefix == std::vector<int32_t>{spec->bos}) spec->prefix.clear();
  if (*add_eos && spec->suffix.empty() && spec->eos >= 0) spec->suffix = {spec->eos};
  if (!*add_eos && spec->suffix == std::vector<int32_t>{spec->eos}) spec->suffix.clear();
  return Ok();
}

Status ParseParts(const Json& json, TokenizerSpec* spec) {
  const Json& model = Member(json, "model");
  if (Status s = ParseModel(model, spec); !s.ok()) return s;
  Status added = ParseAddedTokens(Member(json, "added_tokens"), Member(model, "vocab"), spec);
  if (!added.ok()) return added;
  if (Status s = text::ParseNormalizer(Member(json, "normalizer"), spec); !s.ok()) return s;
  if (Status s = text::ParsePreTokenizer(Member(json, "pre_tokenizer"), spec); !s.ok()) return s;
  if (Status s = text::ParseDecoder(Member(json, "decoder"), spec); !s.ok()) return s;
  if (Status s = text::ParsePostProcessor(Member(json, "post_processor"), spec); !s.ok()) return s;
  if (spec->prefix.size() == 1) spec->bos = spec->prefix[0];
  if (spec->suffix.size() == 1) spec->eos = spec->suffix[0];
  return Ok();
}

}  // namespace

Result<TokenizerSpec> ParseTokenizerJson(const std::string& json, const std::string& config_json,
                                         const std::string& file) {
  TokenizerSpec spec;
  Result<Json> root = ParseObject(json);
  if (!root.ok()) return root.status().Annotate(file);
  if (Status s = ParseParts(*root, &spec); !s.ok()) return s.Annotate(file);
  if (config_json.empty()) return spec;

  const std::string config_file = file + " (tokenizer_config.json)";
  Result<Json> config = ParseObject(config_json);
  if (!config.ok()) return config.status().Annotate(config_file);
  if (Status s = ParseConfig(*config, &spec); !s.ok()) return s.Annotate(config_file);
  return spec;
}

}  // namespace lserve
