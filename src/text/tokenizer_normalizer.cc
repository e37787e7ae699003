#include "text/tokenizer_normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>

#include "text/utf8.h"

namespace lserve::text {
namespace {

using Kind = TokenizerSpec::NormalizeStep::Kind;

// Every character below this is its own NFC; below U+00A0 its own everything.
bool IsTriviallyNormal(std::string_view text, NormalForm form) {
  const uint8_t limit = form == NormalForm::kNfc ? 0xcc : 0x80;
  return std::none_of(text.begin(), text.end(),
                      [&](char c) { return static_cast<uint8_t>(c) >= limit; });
}

void Decompose(char32_t code, bool compatible, std::vector<utf8proc_int32_t>* out) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatible ? UTF8PROC_COMPAT : 0));
  utf8proc_int32_t buffer[32];  // the longest decomposition has 18 characters
  int boundary = 0;
  const utf8proc_ssize_t count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), buffer, 32, options, &boundary);
  if (count < 0 || count > 32) {
    out->push_back(static_cast<utf8proc_int32_t>(code));
  } else {
    out->insert(out->end(), buffer, buffer + count);
  }
}

int CombiningClass(utf8proc_int32_t code) {
  return code < 0x300 ? 0 : utf8proc_get_property(code)->combining_class;
}

// Canonical ordering. utf8proc's own is a bubble sort, quadratic in a run of marks.
void SortMarks(std::vector<utf8proc_int32_t>* codes) {
  for (size_t i = 0; i < codes->size();) {
    if (CombiningClass((*codes)[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < codes->size() && CombiningClass((*codes)[end]) != 0) ++end;
    std::stable_sort(codes->begin() + i, codes->begin() + end,
                     [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    i = end;
  }
}

std::string Replace(std::string_view text, const std::string& from, const std::string& to) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  size_t pos = 0;
  for (size_t hit; (hit = text.find(from, pos)) != std::string_view::npos;
       pos = hit + from.size()) {
    out.append(text, pos, hit - pos);
    out += to;
  }
  out.append(text, pos);
  return out;
}

std::string ReplaceRegex(std::string_view text, const Regex& regex, const std::string& to,
                         RegexScratch* scratch) {
  std::string out;
  size_t pos = 0, begin, end;
  while (pos < text.size() && regex.Find(text, pos, scratch, &begin, &end)) {
    if (begin == end) {  // an empty match: the character after it stays
      if (begin >= text.size()) break;
      end = begin + DecodeUtf8(text, begin).length;
      out.append(text, pos, begin - pos);
      out += to;
      out.append(text, begin, end - begin);
    } else {
      out.append(text, pos, begin - pos);
      out += to;
    }
    pos = end;
  }
  out.append(text, pos);
  return out;
}

}  // namespace

std::string Normalize(std::string_view text, NormalForm form) {
  if (IsTriviallyNormal(text, form)) return std::string(text);
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = DecodeUtf8(text, pos);
    Decompose(c.code, compatible, &codes);
    pos += c.length;
  }
  SortMarks(&codes);
  if (compose) {
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), options);
    CHECK(count >= 0 && static_cast<size_t>(count) <= codes.size());
    codes.resize(static_cast<size_t>(count));
  }
  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t code : codes) AppendUtf8(static_cast<char32_t>(code), &out);
  return out;
}

Result<Normalizer> Normalizer::Create(const std::vector<TokenizerSpec::NormalizeStep>& steps) {
  Normalizer normalizer;
  for (const TokenizerSpec::NormalizeStep& spec : steps) {
    Step step{spec, std::nullopt};
    if (spec.kind == Kind::kReplaceRegex) {
      Result<Regex> regex = Regex::Compile(spec.pattern);
      if (!regex.ok()) return regex.status().Annotate("normalizer");
      step.regex = std::move(*regex);
    }
    if (spec.kind == Kind::kReplace && spec.pattern.empty()) {
      return InvalidArgument("normalizer: Replace of an empty string");
    }
    if (!IsValidUtf8(spec.content) || spec.content.size() > 64) {
      return InvalidArgument("normalizer: content must be valid UTF-8 of at most 64 bytes");
    }
    normalizer.steps_.push_back(std::move(step));
  }
  return normalizer;
}

std::string Normalizer::Apply(std::string_view text, RegexScratch* scratch) const {
  std::string out(text);
  for (const Step& step : steps_) {
    const TokenizerSpec::NormalizeStep& spec = step.spec;
    switch (spec.kind) {
      case Kind::kNfc:
        out = Normalize(out, NormalForm::kNfc);
        break;
      case Kind::kNfd:
        out = Normalize(out, NormalForm::kNfd);
        break;
      case Kind::kNfkc:
        out = Normalize(out, NormalForm::kNfkc);
        break;
      case Kind::kNfkd:
        out = Normalize(out, NormalForm::kNfkd);
        break;
      case Kind::kPrepend:
        if (!out.empty()) out.insert(0, spec.content);
        break;
      case Kind::kReplace:
        out = Replace(out, spec.pattern, spec.content);
        break;
      case Kind::kReplaceRegex:
        out = ReplaceRegex(out, *step.regex, spec.content, scratch);
        break;
    }
  }
  return out;
}

}  // namespace lserve::text
