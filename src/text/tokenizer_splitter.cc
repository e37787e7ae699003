#include "text/tokenizer_splitter.h"

#include <algorithm>

#include "text/utf8.h"

namespace lserve::text {

Result<Splitter> Splitter::Create(const std::vector<TokenizerSpec::SplitStep>& steps) {
  constexpr size_t kMaxSteps = 32;
  if (steps.size() > kMaxSteps) {
    return Unsupported("pre_tokenizer: {} steps, the limit is {}", steps.size(), kMaxSteps);
  }
  Splitter splitter;
  for (const Spec& spec : steps) {
    Step step{spec, std::nullopt};
    if (spec.kind == Spec::Kind::kRegex) {
      Result<Regex> regex = Regex::Compile(spec.pattern);
      if (!regex.ok()) return regex.status().Annotate("pre_tokenizer");
      step.regex = std::move(*regex);
    } else if (spec.kind != Spec::Kind::kPrefixSpace &&
               (spec.pattern.empty() || !IsValidUtf8(spec.pattern))) {
      return InvalidArgument("pre_tokenizer: a pattern is empty or not valid UTF-8");
    }
    if (spec.kind == Spec::Kind::kMetaspace) step.spec.behavior = Spec::Behavior::kMergedWithNext;
    splitter.steps_.push_back(std::move(step));
  }
  return splitter;
}

bool Splitter::FindNext(const Step& step, std::string_view text, size_t from, RegexScratch* scratch,
                        size_t* begin, size_t* end) {
  if (step.regex) {
    if (!step.regex->Find(text, from, scratch, begin, end)) return false;
    if (*begin != *end || *begin != from) return true;
    // An empty match where the last one ended cuts nothing.
    const size_t later = from + DecodeUtf8(text, from).length;
    return later < text.size() && step.regex->Find(text, later, scratch, begin, end);
  }
  *begin = text.find(step.spec.pattern, from);
  *end = *begin + step.spec.pattern.size();
  return *begin != std::string_view::npos;
}

std::vector<Splitter::Range> Splitter::Pieces(const Step& step, std::string_view text,
                                              RegexScratch* scratch) {
  std::vector<Range> all;
  const bool hit = !step.spec.invert;
  size_t pos = 0, begin, end;
  while (pos < text.size() && FindNext(step, text, pos, scratch, &begin, &end)) {
    if (pos < begin) all.push_back({pos, begin, !hit});
    all.push_back({begin, end, hit});
    pos = end;
  }
  if (pos < text.size()) all.push_back({pos, text.size(), !hit});

  std::vector<Range> pieces;
  switch (step.spec.behavior) {
    case Spec::Behavior::kIsolated:
      return all;
    case Spec::Behavior::kRemoved:
      std::copy_if(all.begin(), all.end(), std::back_inserter(pieces),
                   [](const Range& r) { return !r.match; });
      return pieces;
    case Spec::Behavior::kContiguous:
      for (const Range& r : all) {
        if (!pieces.empty() && pieces.back().match == r.match) {
          pieces.back().end = r.end;
        } else {
          pieces.push_back(r);
        }
      }
      return pieces;
    case Spec::Behavior::kMergedWithPrevious: {
      bool after_match = false;
      for (const Range& r : all) {
        if (r.match && !after_match && !pieces.empty()) {
          pieces.back().end = r.end;
        } else {
          pieces.push_back(r);
        }
        after_match = r.match;
      }
      return pieces;
    }
    case Spec::Behavior::kMergedWithNext: {
      bool before_match = false;
      for (auto r = all.rbegin(); r != all.rend(); ++r) {
        if (r->match && !before_match && !pieces.empty()) {
          pieces.back().begin = r->begin;
        } else {
          pieces.push_back(*r);
        }
        before_match = r->match;
      }
      std::reverse(pieces.begin(), pieces.end());
      return pieces;
    }
  }
  return all;
}

std::string Splitter::Rewrite(const Spec& spec, std::string_view text, bool at_start) {
  if (spec.kind == Spec::Kind::kPrefixSpace) {
    return text.starts_with(' ') ? std::string(text) : " " + std::string(text);
  }
  std::string out;
  const bool wanted =
      spec.prepend == Spec::Prepend::kAlways || (spec.prepend == Spec::Prepend::kFirst && at_start);
  if (wanted && !text.starts_with(' ') && !text.starts_with(spec.pattern)) out += spec.pattern;
  for (const char c : text) {
    if (c == ' ') {
      out += spec.pattern;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace lserve::text
