#include "text/tokenizer_json_steps.h"

#include <functional>
#include <optional>
#include <string_view>

namespace lserve::text {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

constexpr char kSpace[] = "\xe2\x96\x81";  // U+2581

const Json* Field(const Json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

using Visit =
    std::function<Status(const Json& step, const std::string& type, const std::string& where)>;

// Calls visit for the step, or in order for each step of a Sequence, whose list is called `list`.
Status ForEachStep(const Json& json, const char* list, const std::string& where, const Visit& visit,
                   int depth = 0) {
  constexpr int kMaxDepth = 8;
  if (json.is_null()) return Ok();
  if (!json.is_object()) return InvalidArgument("{}: not an object", where);
  if (depth > kMaxDepth) return Unsupported("{}: nested deeper than {}", where, kMaxDepth);
  Result<std::string> type = StringField(json, "type", "", where);
  if (!type.ok()) return type.status();
  if (*type != "Sequence") return visit(json, *type, where);
  const Json* steps = Field(json, list);
  if (!steps || !steps->is_array()) return InvalidArgument("{}.{}: not a list", where, list);
  for (size_t i = 0; i < steps->size(); ++i) {
    const std::string inner = fmt::format("{}.{}[{}]", where, list, i);
    if (!(*steps)[i].is_object()) return InvalidArgument("{}: not an object", inner);
    if (Status s = ForEachStep((*steps)[i], list, inner, visit, depth + 1); !s.ok()) return s;
  }
  return Ok();
}

struct Pattern {
  std::string text;
  bool regex = false;
};

// {"String": ...} or {"Regex": ...}
Result<Pattern> PatternField(const Json& step, const std::string& where) {
  const Json* pattern = Field(step, "pattern");
  for (const bool regex : {false, true}) {
    const Json* text = pattern ? Field(*pattern, regex ? "Regex" : "String") : nullptr;
    if (text && text->is_string() && pattern->size() == 1) {
      return Pattern{text->get<std::string>(), regex};
    }
  }
  return InvalidArgument("{}.pattern: neither a String nor a Regex", where);
}

std::optional<TokenizerSpec::SplitStep::Behavior> BehaviorOf(std::string_view name) {
  using Behavior = TokenizerSpec::SplitStep::Behavior;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return std::nullopt;
}

// Whether and where a Metaspace puts a space: prepend_scheme, or add_prefix_space in older files.
Result<TokenizerSpec::SplitStep::Prepend> PrependField(const Json& step, const std::string& where) {
  using Prepend = TokenizerSpec::SplitStep::Prepend;
  Result<bool> old = BoolField(step, "add_prefix_space", true, where);
  if (!old.ok()) return old.status();
  Result<std::string> scheme =
      StringField(step, "prepend_scheme", *old ? "always" : "never", where);
  if (!scheme.ok()) return scheme.status();
  if (*scheme == "always") return Prepend::kAlways;
  if (*scheme == "first") return Prepend::kFirst;
  if (*scheme == "never") return Prepend::kNever;
  return Unsupported("{}.prepend_scheme: \"{}\"", where, *scheme);
}

Status AddSplit(const Json& step, const std::string& where, TokenizerSpec* spec) {
  Result<Pattern> pattern = PatternField(step, where);
  if (!pattern.ok()) return pattern.status();
  Result<std::string> behavior = StringField(step, "behavior", "", where);
  if (!behavior.ok()) return behavior.status();
  Result<bool> invert = BoolField(step, "invert", false, where);
  if (!invert.ok()) return invert.status();
  const auto known = BehaviorOf(*behavior);
  if (!known) return Unsupported("{}.behavior: \"{}\"", where, *behavior);
  TokenizerSpec::SplitStep split;
  split.kind = pattern->regex ? TokenizerSpec::SplitStep::Kind::kRegex
                              : TokenizerSpec::SplitStep::Kind::kString;
  split.pattern = pattern->text;
  split.behavior = *known;
  split.invert = *invert;
  spec->split.push_back(std::move(split));
  return Ok();
}

Status AddByteLevel(const Json& step, const std::string& where, TokenizerSpec* spec) {
  Result<bool> prefix = BoolField(step, "add_prefix_space", true, where);
  if (!prefix.ok()) return prefix.status();
  Result<bool> regex = BoolField(step, "use_regex", true, where);
  if (!regex.ok()) return regex.status();
  using Kind = TokenizerSpec::SplitStep::Kind;
  if (*prefix) {
    spec->split.emplace_back();
    spec->split.back().kind = Kind::kPrefixSpace;
  }
  if (*regex) {
    spec->split.emplace_back();
    spec->split.back().pattern = kGpt2Pattern;
  }
  return Ok();
}

Status AddMetaspace(const Json& step, const std::string& where, TokenizerSpec* spec) {
  Result<std::string> replacement = StringField(step, "replacement", kSpace, where);
  if (!replacement.ok()) return replacement.status();
  if (*replacement != kSpace) return Unsupported("{}.replacement: \"{}\"", where, *replacement);
  Result<TokenizerSpec::SplitStep::Prepend> prepend = PrependField(step, where);
  if (!prepend.ok()) return prepend.status();
  Result<bool> split = BoolField(step, "split", true, where);
  if (!split.ok()) return split.status();
  TokenizerSpec::SplitStep metaspace;
  metaspace.kind = TokenizerSpec::SplitStep::Kind::kMetaspace;
  metaspace.pattern = kSpace;
  metaspace.prepend = *prepend;
  metaspace.split = *split;
  spec->split.push_back(std::move(metaspace));
  return Ok();
}

// The ids of a template's special token.
Status AddTemplateIds(const Json& processor, const Json& piece, const std::string& where,
                      std::vector<int32_t>* ids) {
  Result<std::string> name = StringField(piece, "id", "", where);
  if (!name.ok()) return name.status();
  const Json* tokens = Field(processor, "special_tokens");
  const Json* token = tokens ? Field(*tokens, name->c_str()) : nullptr;
  const Json* list = token ? Field(*token, "ids") : nullptr;
  if (!list || !list->is_array()) {
    return InvalidArgument("{}: special_tokens has no ids for \"{}\"", where, *name);
  }
  for (const Json& id : *list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return InvalidArgument("{}: an id of \"{}\" is not a number", where, *name);
    }
    ids->push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  return Ok();
}

Status AddTemplate(const Json& processor, const std::string& where, TokenizerSpec* spec) {
  const Json* pieces = Field(processor, "single");
  if (!pieces || !pieces->is_array()) return InvalidArgument("{}.single: not a list", where);
  bool after_text = false;
  for (const Json& piece : *pieces) {
    if (Field(piece, "Sequence")) {
      if (after_text) return Unsupported("{}.single: has its text twice", where);
      after_text = true;
    } else if (const Json* token = Field(piece, "SpecialToken")) {
      Status s = AddTemplateIds(processor, *token, where + ".single",
                                after_text ? &spec->suffix : &spec->prefix);
      if (!s.ok()) return s;
    } else {
      return InvalidArgument("{}.single: neither Sequence nor SpecialToken", where);
    }
  }
  return after_text ? Ok() : InvalidArgument("{}.single: has no Sequence", where);
}

Status CheckStrip(const Json& step, const std::string& where, TokenizerSpec* spec) {
  Result<std::string> content = StringField(step, "content", " ", where);
  if (!content.ok()) return content.status();
  const auto is = [&](const char* name, int value) {
    const Json* number = Field(step, name);
    return number && number->is_number_integer() && *number == value;
  };
  if (*content != " " || !is("stop", 0) || !(is("start", 0) || is("start", 1))) {
    return Unsupported("{}: only the removal of one leading space", where);
  }
  spec->strip_leading_space = is("start", 1);
  return Ok();
}

}  // namespace

Result<bool> BoolField(const Json& object, const char* name, bool fallback,
                       const std::string& where) {
  const Json* field = Field(object, name);
  if (!field) return fallback;
  if (!field->is_boolean()) return InvalidArgument("{}.{}: not a boolean", where, name);
  return field->get<bool>();
}

Result<std::string> StringField(const Json& object, const char* name, const std::string& fallback,
                                const std::string& where) {
  const Json* field = Field(object, name);
  if (!field) return fallback;
  if (!field->is_string()) return InvalidArgument("{}.{}: not a string", where, name);
  return field->get<std::string>();
}

Status ParseNormalizer(const Json& json, TokenizerSpec* spec) {
  using Kind = TokenizerSpec::NormalizeStep::Kind;
  const auto visit = [&](const Json& step, const std::string& type,
                         const std::string& where) -> Status {
    TokenizerSpec::NormalizeStep out;
    if (type == "NFC") {
      out.kind = Kind::kNfc;
    } else if (type == "NFD") {
      out.kind = Kind::kNfd;
    } else if (type == "NFKC") {
      out.kind = Kind::kNfkc;
    } else if (type == "NFKD") {
      out.kind = Kind::kNfkd;
    } else if (type == "Prepend") {
      out.kind = Kind::kPrepend;
      Result<std::string> prepend = StringField(step, "prepend", "", where);
      if (!prepend.ok()) return prepend.status();
      out.content = *prepend;
    } else if (type == "Replace") {
      Result<Pattern> pattern = PatternField(step, where);
      if (!pattern.ok()) return pattern.status();
      Result<std::string> content = StringField(step, "content", "", where);
      if (!content.ok()) return content.status();
      out = {pattern->regex ? Kind::kReplaceRegex : Kind::kReplace, pattern->text, *content};
    } else {
      return Unsupported("{}: type \"{}\"", where, type);
    }
    spec->normalize.push_back(std::move(out));
    return Ok();
  };
  return ForEachStep(json, "normalizers", "normalizer", visit);
}

Status ParsePreTokenizer(const Json& json, TokenizerSpec* spec) {
  spec->model = TokenizerSpec::Model::kSentencePieceBpe;
  const auto visit = [&](const Json& step, const std::string& type,
                         const std::string& where) -> Status {
    if (spec->model == TokenizerSpec::Model::kByteLevelBpe) {
      return Unsupported("{}: \"{}\" after ByteLevel", where, type);
    }
    if (type == "ByteLevel") {
      spec->model = TokenizerSpec::Model::kByteLevelBpe;
      return AddByteLevel(step, where, spec);
    }
    if (type == "Split") return AddSplit(step, where, spec);
    if (type == "Metaspace") return AddMetaspace(step, where, spec);
    if (type == "Digits") {
      Result<bool> individual = BoolField(step, "individual_digits", false, where);
      if (!individual.ok()) return individual.status();
      spec->split.emplace_back();
      spec->split.back().pattern = *individual ? R"(\p{N})" : R"(\p{N}+)";
      return Ok();
    }
    return Unsupported("{}: type \"{}\"", where, type);
  };
  return ForEachStep(json, "pretokenizers", "pre_tokenizer", visit);
}

Status ParseDecoder(const Json& json, TokenizerSpec* spec) {
  const bool byte_level = spec->model == TokenizerSpec::Model::kByteLevelBpe;
  const auto visit = [&](const Json& step, const std::string& type,
                         const std::string& where) -> Status {
    if (type == "ByteLevel" && byte_level) return Ok();
    if (byte_level) return Unsupported("{}: \"{}\" for a byte-level vocabulary", where, type);
    if (type == "ByteFallback" || type == "Fuse") return Ok();
    if (type == "Strip") return CheckStrip(step, where, spec);
    if (type == "Metaspace") {
      Result<TokenizerSpec::SplitStep::Prepend> prepend = PrependField(step, where);
      if (!prepend.ok()) return prepend.status();
      spec->strip_leading_space = *prepend != TokenizerSpec::SplitStep::Prepend::kNever;
      return Ok();
    }
    if (type == "Replace") {
      Result<Pattern> pattern = PatternField(step, where);
      if (!pattern.ok()) return pattern.status();
      Result<std::string> content = StringField(step, "content", "", where);
      if (!content.ok()) return content.status();
      if (!pattern->regex && pattern->text == kSpace && *content == " ") return Ok();
      return Unsupported("{}: Replace of anything but U+2581 by a space", where);
    }
    return Unsupported("{}: type \"{}\"", where, type);
  };
  return ForEachStep(json, "decoders", "decoder", visit);
}

Status ParsePostProcessor(const Json& json, TokenizerSpec* spec) {
  const auto visit = [&](const Json& step, const std::string& type,
                         const std::string& where) -> Status {
    if (type == "ByteLevel") return Ok();  // changes offsets only
    if (type == "TemplateProcessing") return AddTemplate(step, where, spec);
    return Unsupported("{}: type \"{}\"", where, type);
  };
  return ForEachStep(json, "processors", "post_processor", visit);
}

}  // namespace lserve::text
