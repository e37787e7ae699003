// The normalisation of text before it is cut into pieces: Unicode's four forms, and the literal
// steps of SentencePiece-style tokenizers. Immutable, any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "text/tokenizer.h"
#include "text/tokenizer_regex.h"

namespace lserve::text {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// Unicode Standard Annex 15. O(n log n) for any input. REQUIRES: valid UTF-8.
std::string Normalize(std::string_view text, NormalForm form);

class Normalizer {
 public:
  static Result<Normalizer> Create(const std::vector<TokenizerSpec::NormalizeStep>& steps);

  bool empty() const { return steps_.empty(); }
  // REQUIRES: valid UTF-8.
  std::string Apply(std::string_view text, RegexScratch* scratch) const;

 private:
  struct Step {
    TokenizerSpec::NormalizeStep spec;
    std::optional<Regex> regex;
  };
  std::vector<Step> steps_;
};

}  // namespace lserve::text
