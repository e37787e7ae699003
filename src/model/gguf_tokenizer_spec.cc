#include "model/gguf_tokenizer_spec.h"

#include "text/gguf_tokenizer.h"

namespace lserve {
namespace {

constexpr char kPrefix[] = "tokenizer.ggml.";

Status Mistyped(const std::string& path, std::string_view key, std::string_view wanted) {
  return InvalidArgument("{}: {}{} must be {}", path, kPrefix, key, wanted);
}

// An absent key leaves the value as it is.
Status ReadBool(const GgufFile& file, const std::string& path, std::string_view key,
                std::optional<bool>* value) {
  const GgufValue* found = file.Find(kPrefix + std::string(key));
  if (!found) return Ok();
  *value = found->Bool();
  return *value ? Ok() : Mistyped(path, key, "true or false");
}

Status ReadId(const GgufFile& file, const std::string& path, std::string_view key, size_t vocab,
              int32_t* id) {
  const GgufValue* found = file.Find(kPrefix + std::string(key));
  if (!found) return Ok();
  const std::optional<int64_t> read = found->Integer();
  if (!read || *read < -1 || *read >= static_cast<int64_t>(vocab))
    return Mistyped(path, key, fmt::format("a token id below {}", vocab));
  *id = static_cast<int32_t>(*read);
  return Ok();
}

Status ReadString(const GgufFile& file, const std::string& path, std::string_view key,
                  std::string* value) {
  const GgufValue* found = file.Find(kPrefix + std::string(key));
  if (!found) return Ok();
  std::optional<std::string> read = found->String();
  if (!read) return Mistyped(path, key, "a string");
  *value = *std::move(read);
  return Ok();
}

Status ReadStrings(const GgufFile& file, const std::string& path, std::string_view key,
                   std::vector<std::string>* value) {
  const GgufValue* found = file.Find(kPrefix + std::string(key));
  if (!found) return Ok();
  std::optional<std::vector<std::string>> read = found->Strings();
  if (!read) return Mistyped(path, key, "a list of strings");
  *value = *std::move(read);
  return Ok();
}

}  // namespace

Result<TokenizerSpec> TokenizerFromGguf(const GgufFile& file, const std::string& path) {
  GgufTokenizer gguf;
  for (const auto& [key, value] : {std::pair{"model", &gguf.model}, {"pre", &gguf.pre}})
    if (Status s = ReadString(file, path, key, value); !s.ok()) return s;
  for (const auto& [key, value] : {std::pair{"tokens", &gguf.tokens}, {"merges", &gguf.merges}})
    if (Status s = ReadStrings(file, path, key, value); !s.ok()) return s;
  const size_t vocab = gguf.tokens.size();
  if (vocab == 0) return InvalidArgument("{}: {}tokens is missing or empty", path, kPrefix);
  for (const auto& [key, value] : {std::pair{"bos_token_id", &gguf.bos},
                                   {"eos_token_id", &gguf.eos},
                                   {"unknown_token_id", &gguf.unk}})
    if (Status s = ReadId(file, path, key, vocab, value); !s.ok()) return s;
  for (const auto& [key, value] : {std::pair{"add_bos_token", &gguf.add_bos},
                                   {"add_eos_token", &gguf.add_eos},
                                   {"add_space_prefix", &gguf.add_space_prefix}})
    if (Status s = ReadBool(file, path, key, value); !s.ok()) return s;
  if (const GgufValue* types = file.Find("tokenizer.ggml.token_type")) {
    const std::optional<std::vector<int64_t>> kinds = types->Integers();
    if (!kinds || kinds->size() != vocab)
      return Mistyped(path, "token_type", fmt::format("a list of {} integers", vocab));
    gguf.token_types.assign(kinds->begin(), kinds->end());
  }
  if (const GgufValue* scores = file.Find("tokenizer.ggml.scores")) {
    std::optional<std::vector<float>> values = scores->Reals();
    if (!values || values->size() != vocab)
      return Mistyped(path, "scores", fmt::format("a list of {} numbers", vocab));
    gguf.scores = *std::move(values);
  }
  Result<TokenizerSpec> spec = GgufTokenizerSpec(std::move(gguf));
  if (!spec.ok()) return spec.status().Annotate(path);
  return spec;
}

}  // namespace lserve
