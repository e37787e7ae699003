// Text <-> token ids: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM2) and SentencePiece-style BPE
// (Llama 2, Mistral), with the ids that Hugging Face's `tokenizers` gives. A Tokenizer is immutable
// after it is made and may be used from any thread at once. Which characters are letters, digits or
// composed is decided by the Unicode version of the installed PCRE2 and utf8proc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/status.h"

namespace lserve {

// Everything a tokenizer is made of, from tokenizer.json (+ tokenizer_config.json) or from GGUF
// metadata. Steps are in the order in which they are applied.
struct TokenizerSpec {
  enum class Model { kByteLevelBpe, kSentencePieceBpe };

  // Text that is one token wherever it stands, found before anything else is done.
  struct AddedToken {
    int32_t id = 0;
    std::string text;
    bool special = false;      // not part of decoded text; in input only where the caller allows it
    bool lstrip = false;       // takes the white space before it along
    bool rstrip = false;       // and after it
    bool single_word = false;  // not next to letters, digits or '_'
    bool normalized = false;   // looked for, itself normalised, in the normalised text
  };

  // What is done to the text between added tokens.
  struct NormalizeStep {
    enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kPrepend, kReplace, kReplaceRegex };
    Kind kind = Kind::kNfc;
    std::string pattern;  // kReplace*: what is replaced
    std::string content;  // kPrepend, kReplace*
  };

  // How normalised text is cut into pieces across which no token reaches; every step cuts each
  // piece of the step before it.
  struct SplitStep {
    enum class Kind { kRegex, kString, kPrefixSpace, kMetaspace };
    enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
    enum class Prepend { kAlways, kFirst, kNever };
    Kind kind = Kind::kRegex;
    std::string pattern;  // kRegex, kString: what matches; kMetaspace: what stands for a space
    Behavior behavior = Behavior::kIsolated;  // kRegex, kString
    bool invert = false;                      // kRegex, kString: matches and the rest change places
    Prepend prepend = Prepend::kAlways;       // kMetaspace
    bool split = true;                        // kMetaspace: also cut before every `pattern`
  };

  Model model = Model::kByteLevelBpe;
  // id -> piece in the model's own alphabet (byte-level: GPT-2's byte characters); empty: unused
  // id.
  std::vector<std::string> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  // id -> score, highest merged first, as SentencePiece does; only where merges is empty. Ids in
  // `unmergeable` (control, unknown and byte tokens) are never the result of a merge.
  std::vector<float> scores;
  std::vector<int32_t> unmergeable;
  std::vector<AddedToken> added;
  std::vector<NormalizeStep> normalize;
  std::vector<SplitStep> split;
  bool ignore_merges = false;  // a whole piece that is in the vocabulary is one token (Llama 3)
  bool byte_fallback = false;  // unknown characters become <0xNN>
  bool fuse_unk = false;       // a run of unknown characters is one unk
  bool strip_leading_space = false;     // decoded text loses one leading space
  int32_t unk = -1;                     // -1: what has no token is dropped
  int32_t bos = -1, eos = -1;           // -1: none
  std::vector<int32_t> prefix, suffix;  // what Encode with add_special puts around a text
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Errors name the field of the spec.
  static Result<std::unique_ptr<Tokenizer>> Create(TokenizerSpec spec);

  // `add_special`: put bos / eos where the model wants them. `parse_special`: added tokens that are
  // special are recognised in the text; without it their text is ordinary text and no sequence of
  // characters gives their ids (user content must not be able to forge control tokens; a special
  // token that is a single character of the vocabulary is ordinary text too). Other added tokens
  // are always recognised. Invalid UTF-8 is replaced by U+FFFD, one for each maximal subpart,
  // before anything else. Never fails: what has no token is dropped or becomes unk; where a regular
  // expression exceeds its match limit, the rest of the text is not cut further.
  virtual std::vector<int32_t> Encode(std::string_view text, bool add_special,
                                      bool parse_special) const = 0;

  // The bytes a token stands for (may be part of a character). Special tokens give their text if
  // `special`, else nothing. Out-of-range ids give nothing.
  virtual std::string TokenBytes(int32_t id, bool special = false) const = 0;

  // A whole sequence as text, invalid UTF-8 replaced by U+FFFD. SentencePiece: the space that was
  // put before the text is removed.
  virtual std::string Decode(const std::vector<int32_t>& ids, bool special = false) const = 0;

  virtual int vocab_size() const = 0;
  virtual int32_t bos() const = 0;
  virtual int32_t eos() const = 0;
  virtual bool is_special(int32_t id) const = 0;
  // Whether Decode removes one space from the start of the text.
  virtual bool strips_leading_space() const = 0;
  // The id of a piece or added token with exactly this text, or -1.
  virtual int32_t Find(std::string_view piece) const = 0;
};

// Turns tokens into text piece by piece: what it returns is always whole UTF-8 characters, and all
// pieces together are Tokenizer::Decode of all ids. One thread at a time.
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
  bool strip_;           // the next byte is the text's first and would lose a space
  std::string pending_;  // the begun character at the end, at most three bytes
};

// Reads tokenizer.json (and tokenizer_config.json, may be empty) text; `file` names it in errors.
// What is not understood and would change ids or text is an error that names the field.
Result<TokenizerSpec> ParseTokenizerJson(const std::string& json, const std::string& config_json,
                                         const std::string& file);

// Sets spec->split (and normalize, ignore_merges) to what a GGUF's tokenizer.ggml.pre value means
// (e.g. "llama-bpe", "qwen2", "smollm", "default"); the error names an unknown one.
Status ApplyGgufPreTokenizer(const std::string& pre, TokenizerSpec* spec);

}  // namespace lserve
