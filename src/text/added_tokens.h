// Finds added tokens in text: leftmost first, the longest of those that begin there, with the rules
// for white space and word borders that `tokenizers` has. Immutable, any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/status.h"
#include "text/tokenizer.h"

namespace lserve::text {

class AddedTokenMatcher {
 public:
  // `token.text` is what is looked for.
  Status Add(const TokenizerSpec::AddedToken& token);

  // Calls emit(begin, end, id) for every stretch of the text in order; id is -1 between tokens.
  // Special tokens are passed over unless `parse_special`. A token that begins in white space which
  // one with rstrip took along counts all the same, and the text goes on at its end: `tokenizers`
  // does so. REQUIRES: valid UTF-8.
  template <typename Emit>
  void Split(std::string_view text, bool parse_special, const Emit& emit) const {
    size_t done = 0, pos = 0;
    while (const Token* token = FindNext(text, &pos)) {
      size_t begin = pos, end = pos + token->length;
      pos = end;
      if (!Fits(*token, text, parse_special, done, &begin, &end)) continue;
      if (done < begin) emit(done, begin, -1);
      emit(begin, end, token->id);
      done = end;
    }
    if (done < text.size()) emit(done, text.size(), -1);
  }

 private:
  struct Token {
    int32_t id;
    size_t length;
    bool special, lstrip, rstrip, single_word;
  };
  static uint64_t Edge(uint32_t node, char byte) {
    return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
  }
  // The next token at or after *pos, which becomes its place; null: there is none.
  const Token* FindNext(std::string_view text, size_t* pos) const;
  // Whether the token counts here, and its borders with the white space that it takes along.
  static bool Fits(const Token& token, std::string_view text, bool parse_special, size_t done,
                   size_t* begin, size_t* end);

  std::vector<Token> tokens_;
  std::array<bool, 256> first_byte_{};
  std::unordered_map<uint64_t, uint32_t> edges_;  // a trie; node 0 is the root
  std::unordered_map<uint32_t, uint32_t> ends_;   // node -> token
  uint32_t nodes_ = 1;
};

}  // namespace lserve::text
