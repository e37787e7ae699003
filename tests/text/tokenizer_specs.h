// Small vocabularies for the tests of tokenizers.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/byte_alphabet.h"
#include "text/tokenizer.h"

namespace lserve {

using Merges = std::vector<std::pair<std::string, std::string>>;

// GPT-2's words over all bytes, id == byte, and the merges' results after them.
inline TokenizerSpec ByteLevelSpec(const Merges& merges) {
  TokenizerSpec spec;
  for (int b = 0; b < 256; ++b) {
    spec.vocab.push_back(text::ToByteAlphabet(std::string(1, static_cast<char>(b))));
  }
  for (const auto& [left, right] : merges) spec.vocab.push_back(left + right);
  spec.merges = merges;
  EXPECT_TRUE(ApplyGgufPreTokenizer("gpt-2", &spec).ok());
  return spec;
}

inline std::unique_ptr<Tokenizer> Make(TokenizerSpec spec) {
  Result<std::unique_ptr<Tokenizer>> made = Tokenizer::Create(std::move(spec));
  EXPECT_TRUE(made.ok()) << made.status().ToString();
  return made.ok() ? std::move(*made) : nullptr;
}

inline std::unique_ptr<Tokenizer> ByteLevel(const Merges& merges) {
  return Make(ByteLevelSpec(merges));
}

}  // namespace lserve
