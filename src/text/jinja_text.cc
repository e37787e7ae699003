#include "text/jinja_text.h"

#include <string.h>  // memmem is not in <cstring>
#include <utf8proc.h>

#include <algorithm>

#include "text/jinja_unicode.h"
#include "text/utf8.h"

namespace lserve::jinja {
namespace {

char32_t CharAt(std::string_view s, size_t pos) { return text::DecodeUtf8(s, pos).code; }

size_t PreviousChar(std::string_view s, size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(s[end]) & 0xC0) == 0x80);
  return end;
}

bool IsLineBreak(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

utf8proc_category_t Category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}
bool IsUpperChar(char32_t c) { return utf8proc_isupper(static_cast<utf8proc_int32_t>(c)); }
bool IsLowerChar(char32_t c) { return utf8proc_islower(static_cast<utf8proc_int32_t>(c)); }
bool IsCased(char32_t c) {
  return IsUpperChar(c) || IsLowerChar(c) || Category(c) == UTF8PROC_CATEGORY_LT;
}
char32_t ToLower(char32_t c) { return utf8proc_tolower(static_cast<utf8proc_int32_t>(c)); }

void AppendUpper(char32_t c, bool title, std::string* out) {
  const std::string_view special = title ? SpecialTitle(c) : SpecialUpper(c);
  if (!special.empty()) {
    out->append(special);
    return;
  }
  const auto code = static_cast<utf8proc_int32_t>(c);
  text::AppendUtf8(title ? utf8proc_totitle(code) : utf8proc_toupper(code), out);
}

// Lower case of the character at `pos`; a capital sigma at the end of a word has its own form.
void AppendLower(std::string_view s, size_t pos, char32_t c, std::string* out) {
  if (c == 0x130) {
    out->append("i\xCC\x87");
    return;
  }
  if (c != 0x3A3) {
    text::AppendUtf8(ToLower(c), out);
    return;
  }
  auto ignorable = [](char32_t x) {
    const auto category = Category(x);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME ||
           category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_LM ||
           category == UTF8PROC_CATEGORY_SK || x == '\'' || x == '.' || x == ':' || x == 0xB7 ||
           x == 0x2019;
  };
  bool before = false, after = false;
  for (size_t at = pos; at > 0;) {
    at = PreviousChar(s, at);
    Work(1);
    if (ignorable(CharAt(s, at))) continue;
    before = IsCased(CharAt(s, at));
    break;
  }
  for (size_t at = pos + 2; at < s.size(); at += CharLength(s, at)) {
    Work(1);
    if (ignorable(CharAt(s, at))) continue;
    after = IsCased(CharAt(s, at));
    break;
  }
  text::AppendUtf8(before && !after ? 0x3C2 : 0x3C3, out);
}

template <typename F>
void ForEachChar(std::string_view s, F f) {
  Work(s.size());
  for (size_t pos = 0; pos < s.size();) {
    const text::Utf8Char c = text::DecodeUtf8(s, pos);
    f(pos, c.code);
    pos += c.length;
  }
}

}  // namespace

size_t CodePoints(std::string_view s) {
  Work(s.size());
  return static_cast<size_t>(std::count_if(
      s.begin(), s.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

size_t CharLength(std::string_view s, size_t pos) { return text::DecodeUtf8(s, pos).length; }

std::vector<size_t> CharStarts(std::string_view s) {
  std::vector<size_t> starts;
  starts.reserve(CodePoints(s) + 1);
  for (size_t i = 0; i < s.size(); ++i)
    if ((static_cast<unsigned char>(s[i]) & 0xC0) != 0x80) starts.push_back(i);
  starts.push_back(s.size());
  return starts;
}

std::string_view SubString(std::string_view s, int64_t start, int64_t count) {
  size_t begin = 0;
  for (; start > 0 && begin < s.size(); --start) begin += CharLength(s, begin);
  size_t end = begin;
  for (; count > 0 && end < s.size(); --count) end += CharLength(s, end);
  Work(end);
  return s.substr(begin, end - begin);
}

size_t FindText(std::string_view s, std::string_view part) {
  if (part.empty()) return 0;
  // memmem stays linear where string::find compares the same bytes again and again.
  const void* at = memmem(s.data(), s.size(), part.data(), part.size());
  if (at == nullptr) {
    Work(4 * s.size());
    return std::string_view::npos;
  }
  const size_t pos = static_cast<size_t>(static_cast<const char*>(at) - s.data());
  Work(4 * (pos + part.size()));
  return pos;
}

size_t FindLastText(std::string_view s, std::string_view part) {
  const size_t pos = s.rfind(part);
  Work((s.size() - (pos == std::string_view::npos ? 0 : pos)) * (1 + part.size() / 16));
  return pos;
}

bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

std::string_view Strip(std::string_view s, int sides, std::optional<std::string_view> chars) {
  auto strips = [&](size_t pos, size_t length) {
    if (!chars) return IsSpace(CharAt(s, pos));
    Work(chars->size());
    return chars->find(s.substr(pos, length)) != std::string_view::npos;
  };
  size_t begin = 0, end = s.size();
  while ((sides & kLeft) && begin < end) {
    const size_t n = CharLength(s, begin);
    if (!strips(begin, n)) break;
    begin += n;
  }
  while ((sides & kRight) && begin < end) {
    const size_t previous = PreviousChar(s, end);
    if (!strips(previous, end - previous)) break;
    end = previous;
  }
  Work(s.size() - (end - begin) + 1);
  return s.substr(begin, end - begin);
}

std::string Upper(std::string_view s) {
  std::string out;
  ForEachChar(s, [&](size_t, char32_t c) { AppendUpper(c, false, &out); });
  return out;
}

std::string Lower(std::string_view s) {
  std::string out;
  ForEachChar(s, [&](size_t pos, char32_t c) { AppendLower(s, pos, c, &out); });
  return out;
}

std::string TitleCase(std::string_view s) {
  std::string out;
  bool in_word = false;
  ForEachChar(s, [&](size_t pos, char32_t c) {
    if (in_word)
      AppendLower(s, pos, c, &out);
    else
      AppendUpper(c, true, &out);
    in_word = IsCased(c);
  });
  return out;
}

std::string Capitalize(std::string_view s) {
  std::string out;
  ForEachChar(s, [&](size_t pos, char32_t c) {
    if (pos == 0)
      AppendUpper(c, true, &out);
    else
      AppendLower(s, pos, c, &out);
  });
  return out;
}

std::string SwapCase(std::string_view s) {
  std::string out;
  ForEachChar(s, [&](size_t pos, char32_t c) {
    if (IsUpperChar(c))
      AppendLower(s, pos, c, &out);
    else if (IsLowerChar(c))
      AppendUpper(c, false, &out);
    else
      text::AppendUtf8(c, &out);
  });
  return out;
}

bool IsUpper(std::string_view s) {
  bool cased = false, other = false;
  ForEachChar(s, [&](size_t, char32_t c) {
    cased |= IsUpperChar(c);
    other |= IsCased(c) && !IsUpperChar(c);
  });
  return cased && !other;
}

bool IsLower(std::string_view s) {
  bool cased = false, other = false;
  ForEachChar(s, [&](size_t, char32_t c) {
    cased |= IsLowerChar(c);
    other |= IsCased(c) && !IsLowerChar(c);
  });
  return cased && !other;
}

bool IsPrintable(char32_t c) {
  if (c == ' ') return true;
  switch (Category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool AllAre(std::string_view s, CharClass wanted) {
  auto is = [wanted](char32_t c) {
    const auto category = Category(c);
    const bool alpha = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
    const bool decimal = category == UTF8PROC_CATEGORY_ND;
    const bool digit = decimal || IsSpecialDigit(c);
    const bool numeric = digit || category == UTF8PROC_CATEGORY_NL ||
                         category == UTF8PROC_CATEGORY_NO || IsNumericLetter(c);
    switch (wanted) {
      case CharClass::kAlpha:
        return alpha;
      case CharClass::kDecimal:
        return decimal;
      case CharClass::kDigit:
        return digit;
      case CharClass::kNumeric:
        return numeric;
      case CharClass::kAlnum:
        return alpha || numeric;
      case CharClass::kSpace:
        return IsSpace(c);
      case CharClass::kPrintable:
        return IsPrintable(c);
      case CharClass::kAscii:
        return c < 0x80;
    }
    return false;
  };
  bool all = !s.empty() || wanted == CharClass::kPrintable || wanted == CharClass::kAscii;
  ForEachChar(s, [&](size_t, char32_t c) { all = all && is(c); });
  return all;
}

std::vector<std::string_view> SplitSpace(std::string_view s, int64_t limit) {
  std::vector<std::string_view> out;
  Work(s.size());
  size_t pos = 0;
  while (true) {
    while (pos < s.size() && IsSpace(CharAt(s, pos))) pos += CharLength(s, pos);
    if (pos >= s.size()) return out;
    if (limit >= 0 && static_cast<int64_t>(out.size()) >= limit) {
      out.push_back(s.substr(pos));
      return out;
    }
    const size_t start = pos;
    while (pos < s.size() && !IsSpace(CharAt(s, pos))) pos += CharLength(s, pos);
    out.push_back(s.substr(start, pos - start));
  }
}

std::vector<std::string_view> SplitSpaceRight(std::string_view s, int64_t limit) {
  std::vector<std::string_view> out;
  Work(s.size());
  while (true) {
    s = Strip(s, kRight);
    if (s.empty()) break;
    if (limit >= 0 && static_cast<int64_t>(out.size()) >= limit) {
      out.push_back(s);
      break;
    }
    size_t start = s.size();
    while (start > 0 && !IsSpace(CharAt(s, PreviousChar(s, start)))) start = PreviousChar(s, start);
    out.push_back(s.substr(start));
    s = s.substr(0, start);
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> Split(std::string_view s, std::string_view separator, int64_t limit) {
  std::vector<std::string_view> out;
  while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
    const size_t at = FindText(s, separator);
    if (at == std::string_view::npos) break;
    out.push_back(s.substr(0, at));
    s.remove_prefix(at + separator.size());
  }
  out.push_back(s);
  return out;
}

std::vector<std::string_view> SplitRight(std::string_view s, std::string_view separator,
                                         int64_t limit) {
  std::vector<std::string_view> out;
  while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
    const size_t at = FindLastText(s, separator);
    if (at == std::string_view::npos) break;
    out.push_back(s.substr(at + separator.size()));
    s = s.substr(0, at);
  }
  out.push_back(s);
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> SplitLines(std::string_view s, bool keep_ends) {
  std::vector<std::string_view> out;
  Work(s.size());
  size_t start = 0;
  for (size_t pos = 0; pos < s.size();) {
    const text::Utf8Char c = text::DecodeUtf8(s, pos);
    const size_t at = pos;
    pos += c.length;
    if (!IsLineBreak(c.code)) continue;
    if (c.code == '\r' && pos < s.size() && s[pos] == '\n') ++pos;
    out.push_back(s.substr(start, (keep_ends ? pos : at) - start));
    start = pos;
  }
  if (start < s.size()) out.push_back(s.substr(start));
  return out;
}

std::string Replace(std::string_view s, std::string_view from, std::string_view to, int64_t limit) {
  Text out;
  int64_t done = 0;
  if (from.empty()) {
    // Python puts `to` before every character and at the end.
    size_t pos = 0;
    for (; limit < 0 || done < limit; ++done) {
      out.Append(to);
      if (pos >= s.size()) break;
      const size_t n = CharLength(s, pos);
      out.Append(s.substr(pos, n));
      pos += n;
    }
    out.Append(s.substr(std::min(pos, s.size())));
    return out.Take();
  }
  for (; limit < 0 || done < limit; ++done) {
    const size_t at = FindText(s, from);
    if (at == std::string_view::npos) break;
    out.Append(s.substr(0, at));
    out.Append(to);
    s.remove_prefix(at + from.size());
  }
  out.Append(s);
  return out.Take();
}

}  // namespace lserve::jinja
