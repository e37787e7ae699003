// Text <-> token ids: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM2) and SentencePiece-style BPE (Llama 2, Mistral), as Hugging Face's `tokenizers` does it.
// A Tokenizer is immutable after it is made and may be used from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"

namespace lserve {

// Everything a tokenizer is made of, from tokenizer.json (+ tokenizer_config.json) or from GGUF metadata.
struct TokenizerSpec {
  enum class Model { kByteLevelBpe, kSentencePieceBpe };
  struct AddedToken {
    int32_t id = 0;
    std::string text;
    bool special = false;    // not part of decoded text; only matched in input when the caller allows it
    bool lstrip = false, rstrip = false, single_word = false, normalized = false;
  };
  Model model = Model::kByteLevelBpe;
  std::vector<std::string> vocab;           // id -> piece, in the model's own alphabet (byte-level: GPT-2's byte characters); empty: unused id
  std::vector<std::string> merges;          // "left right", best first; kSentencePieceBpe from GGUF may have scores instead
  std::vector<float> scores;                // id -> score; only where merges is empty
  std::vector<AddedToken> added;
  std::vector<std::string> split_patterns;  // byte-level: regular expressions applied one after the other, each isolating its matches
  bool split_digits = false;                // before the patterns: every digit (Unicode \p{N}) its own piece
  bool nfc = false;                         // normalise to NFC first (Qwen)
  bool add_prefix_space = false;            // put a space before the text
  bool ignore_merges = false;               // a whole pre-token that is in the vocabulary is one token (Llama 3)
  bool byte_fallback = false;               // SentencePiece: unknown characters become <0xNN>
  int32_t unk = -1;
  int32_t bos = -1, eos = -1;               // -1: none
  bool add_bos = false, add_eos = false;    // what Encode with add_special puts around a text
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  static Result<std::unique_ptr<Tokenizer>> Create(TokenizerSpec spec);

  // `add_special`: put bos / eos where the model wants them. `parse_special`: added tokens that are special are recognised in the text; without it their text is ordinary
  // text (user content must not be able to forge control tokens). Non-special added tokens are always recognised. Invalid UTF-8 is replaced by U+FFFD, byte by maximal
  // subpart, before anything else. Never fails: what has no token is dropped or becomes unk.
  virtual std::vector<int32_t> Encode(std::string_view text, bool add_special, bool parse_special) const = 0;

  // The bytes a token stands for (may be part of a character). Special tokens give their text if `special`, else nothing. Out-of-range ids give nothing.
  virtual std::string TokenBytes(int32_t id, bool special = false) const = 0;

  // A whole sequence as text, invalid UTF-8 replaced by U+FFFD. SentencePiece: the space that was put before the text is removed.
  virtual std::string Decode(const std::vector<int32_t>& ids, bool special = false) const = 0;

  virtual int vocab_size() const = 0;
  virtual int32_t bos() const = 0;
  virtual int32_t eos() const = 0;
  virtual bool is_special(int32_t id) const = 0;
  // The id of a piece or added token with exactly this text, or -1.
  virtual int32_t Find(std::string_view piece) const = 0;
};

// Turns tokens into text piece by piece: what it returns is always whole UTF-8 characters, and all pieces together are Tokenizer::Decode of all ids.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer, bool special = false);
  // Text that became complete with this token; may be empty.
  std::string Push(int32_t id);
  // What is left: an incomplete character becomes U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool special_;
  bool first_ = true;
  std::string pending_;
};

// Reads tokenizer.json (and tokenizer_config.json, may be empty) text; `file` names it in errors.
Result<TokenizerSpec> ParseTokenizerJson(const std::string& json, const std::string& config_json, const std::string& file);

// The split patterns for a GGUF's tokenizer.ggml.pre value (e.g. "llama-bpe", "qwen2", "smollm", "default"); the error names an unknown one.
Status ApplyGgufPreTokenizer(const std::string& pre, TokenizerSpec* spec);

}  // namespace lserve
