// Cuts normalised text into the pieces across which no token reaches (a "pre-tokenizer").
// Immutable, any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/status.h"
#include "text/tokenizer.h"
#include "text/tokenizer_regex.h"

namespace lserve::text {

class Splitter {
 public:
  static Result<Splitter> Create(const std::vector<TokenizerSpec::SplitStep>& steps);

  // Calls emit(piece) for every piece in order. `at_start`: the text begins where the input did.
  // REQUIRES: valid UTF-8.
  template <typename Emit>
  void Split(std::string_view text, bool at_start, RegexScratch* scratch, const Emit& emit) const {
    Run(0, text, at_start, scratch, emit);
  }

 private:
  using Spec = TokenizerSpec::SplitStep;
  struct Range {
    size_t begin, end;
    bool match;
  };
  struct Step {
    Spec spec;
    std::optional<Regex> regex;
  };

  // The next match of a kRegex or kString step; never an empty one at `from`.
  static bool FindNext(const Step& step, std::string_view text, size_t from, RegexScratch* scratch,
                       size_t* begin, size_t* end);
  // The pieces of a step whose pieces depend on their neighbours.
  static std::vector<Range> Pieces(const Step& step, std::string_view text, RegexScratch* scratch);
  // kPrefixSpace and kMetaspace: the text with its spaces changed.
  static std::string Rewrite(const Spec& spec, std::string_view text, bool at_start);

  template <typename Emit>
  void Run(size_t level, std::string_view text, bool at_start, RegexScratch* scratch,
           const Emit& emit) const {
    if (text.empty()) return;
    if (level == steps_.size()) return emit(text);
    const Step& step = steps_[level];
    const auto next = [&](size_t begin, size_t end) {
      Run(level + 1, text.substr(begin, end - begin), at_start && begin == 0, scratch, emit);
    };
    if (step.spec.kind == Spec::Kind::kPrefixSpace ||
        (step.spec.kind == Spec::Kind::kMetaspace && !step.spec.split)) {
      return Run(level + 1, Rewrite(step.spec, text, at_start), at_start, scratch, emit);
    }
    if (step.spec.kind == Spec::Kind::kMetaspace) {
      const std::string rewritten = Rewrite(step.spec, text, at_start);
      text = rewritten;
      for (const Range& piece : Pieces(step, text, scratch)) next(piece.begin, piece.end);
      return;
    }
    if (step.spec.behavior != Spec::Behavior::kIsolated) {
      for (const Range& piece : Pieces(step, text, scratch)) next(piece.begin, piece.end);
      return;
    }
    size_t pos = 0, begin, end;
    while (pos < text.size() && FindNext(step, text, pos, scratch, &begin, &end)) {
      next(pos, begin);
      next(begin, end);
      pos = end;
    }
    next(pos, text.size());
  }

  std::vector<Step> steps_;
};

}  // namespace lserve::text
