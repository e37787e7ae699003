#include "text/jinja_lexer.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>

#include "text/jinja_text.h"
#include "text/utf8.h"

namespace lserve::jinja {
namespace {

std::string NormalizeNewlines(const std::string& source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool IsNameChar(char c) { return IsNameStart(c) || IsDigit(c); }

class Lexer {
 public:
  explicit Lexer(const std::string& source) : s_(NormalizeNewlines(source)) {}

  std::vector<Token> Run() {
    while (pos_ < s_.size()) Root();
    Emit(Tok::kEof, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void FailAt(std::string message) {
    throw TemplateError{Code::kInvalidArgument, std::move(message), line_};
  }

  void Emit(Tok type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }

  // Moves on and counts lines.
  void Advance(size_t to) {
    line_ += static_cast<int>(std::count(s_.begin() + static_cast<int64_t>(pos_),
                                         s_.begin() + static_cast<int64_t>(to), '\n'));
    pos_ = to;
  }

  bool At(size_t pos, std::string_view text) const {
    return s_.compare(pos, text.size(), text) == 0;
  }

  size_t SkipSpace(size_t pos) const {
    while (pos < s_.size()) {
      const text::Utf8Char c = text::DecodeUtf8(s_, pos);
      if (!IsSpace(c.code)) break;
      pos += c.length;
    }
    return pos;
  }

  // Start of the next tag, or the end.
  size_t FindTag(size_t from) const {
    for (size_t at = s_.find('{', from); at != std::string::npos; at = s_.find('{', at + 1))
      if (at + 1 < s_.size() && (s_[at + 1] == '{' || s_[at + 1] == '%' || s_[at + 1] == '#'))
        return at;
    return s_.size();
  }

  // The text before a tag at `tag`, stripped as the tag's sign says.
  std::string_view DataBefore(size_t tag, char sign, bool lstrip) const {
    const std::string_view data = std::string_view(s_).substr(pos_, tag - pos_);
    if (sign == '-') return Strip(data, kRight);
    if (sign == '+' || !lstrip) return data;
    const size_t newline = data.rfind('\n');
    const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    if (line_start == 0 && !line_starting_) return data;
    const std::string_view margin = data.substr(line_start);
    return Strip(margin, kBoth).empty() ? data.substr(0, line_start) : data;
  }

  char SignAt(size_t pos) const {
    return pos < s_.size() && (s_[pos] == '-' || s_[pos] == '+') ? s_[pos] : 0;
  }

  void EmitData(std::string_view data) {
    if (!data.empty()) Emit(Tok::kData, std::string(data));
  }

  // Where the text goes on after a tag whose end mark stands at `end`; `sign` is the character
  // before it.
  size_t AfterTag(size_t end, char sign, bool trims_newline) const {
    size_t next = end + 2;
    if (sign == '-') return SkipSpace(next);
    if (sign != '+' && trims_newline && next < s_.size() && s_[next] == '\n') ++next;
    return next;
  }

  void EndTag(size_t next) {
    Advance(next);
    line_starting_ = next > 0 && s_[next - 1] == '\n';
  }

  void Root() {
    const size_t tag = FindTag(pos_);
    if (tag == s_.size()) {
      EmitData(std::string_view(s_).substr(pos_));
      Advance(tag);
      return;
    }
    const char type = s_[tag + 1];
    const char sign = SignAt(tag + 2);
    EmitData(DataBefore(tag, sign, type != '{'));
    const size_t inside = tag + 2 + (sign ? 1 : 0);
    Advance(inside);
    if (type == '#') {
      Comment();
    } else if (type == '%') {
      if (!Raw()) {
        Emit(Tok::kBlockBegin, "");
        Code(Tok::kBlockEnd);
      }
    } else {
      Emit(Tok::kVarBegin, "");
      Code(Tok::kVarEnd);
    }
  }

  void Comment() {
    const size_t end = s_.find("#}", pos_);
    if (end == std::string::npos) FailAt("a comment is not closed");
    const char sign = end > pos_ ? SignAt(end - 1) : 0;
    EndTag(AfterTag(end, sign, true));
  }

  // {% raw %} ... {% endraw %}: true if one stood here.
  bool Raw() {
    size_t at = SkipSpace(pos_);
    if (!At(at, "raw")) return false;
    at = SkipSpace(at + 3);
    const bool minus = At(at, "-%}");
    if (!minus && !At(at, "%}")) return false;
    EndTag(minus ? SkipSpace(at + 3) : at + 2);
    for (size_t tag = s_.find("{%", pos_); tag != std::string::npos; tag = s_.find("{%", tag + 2)) {
      const char sign = SignAt(tag + 2);
      size_t end = SkipSpace(tag + 2 + (sign ? 1 : 0));
      if (!At(end, "endraw")) continue;
      end = SkipSpace(end + 6);
      const char end_sign = SignAt(end);
      if (end_sign) ++end;
      if (!At(end, "%}")) continue;
      EmitData(DataBefore(tag, sign, true));
      EndTag(AfterTag(end, end_sign, true));
      return true;
    }
    FailAt("a raw block is not closed");
  }

  // The inside of a tag up to its end mark.
  void Code(Tok end_type) {
    const std::string_view mark = end_type == Tok::kVarEnd ? "}}" : "%}";
    std::string brackets;
    while (true) {
      Advance(SkipSpace(pos_));
      if (pos_ >= s_.size()) FailAt("a tag is not closed");
      if (brackets.empty()) {
        const char sign = SignAt(pos_);
        // "+}}" is no end mark: variables have no plus sign.
        const bool signed_end =
            sign && !(sign == '+' && end_type == Tok::kVarEnd) && At(pos_ + 1, mark);
        if (signed_end || At(pos_, mark)) {
          Emit(end_type, "");
          EndTag(AfterTag(pos_ + (signed_end ? 1 : 0), signed_end ? sign : 0,
                          end_type == Tok::kBlockEnd));
          return;
        }
      }
      Item(&brackets);
    }
  }

  void Item(std::string* brackets) {
    const char c = s_[pos_];
    if (IsNameStart(c)) {
      size_t end = pos_ + 1;
      while (end < s_.size() && IsNameChar(s_[end])) ++end;
      Emit(Tok::kName, s_.substr(pos_, end - pos_));
      pos_ = end;
    } else if (IsDigit(c)) {
      Number();
    } else if (c == '"' || c == '\'') {
      String(c);
    } else {
      Operator(brackets);
    }
  }

  // Digits with single underscores between them.
  size_t Digits(size_t pos) const {
    while (pos < s_.size() &&
           (IsDigit(s_[pos]) || (s_[pos] == '_' && pos + 1 < s_.size() && IsDigit(s_[pos + 1]))))
      ++pos;
    return pos;
  }

  void Number() {
    const size_t begin = pos_;
    size_t end = Digits(begin);
    bool is_float = false;
    // "1.2.3" reads an attribute, so a number right after a dot has no fraction.
    const bool after_dot = begin > 0 && s_[begin - 1] == '.';
    if (!after_dot) {
      size_t at = end;
      if (at + 1 < s_.size() && s_[at] == '.' && IsDigit(s_[at + 1])) {
        end = at = Digits(at + 1);
        is_float = true;
      }
      if (at < s_.size() && (s_[at] == 'e' || s_[at] == 'E')) {
        size_t digits = at + 1;
        if (SignAt(digits)) ++digits;
        if (digits < s_.size() && IsDigit(s_[digits])) {
          end = Digits(digits);
          is_float = true;
        }
      }
    }
    int base = 10;
    if (!is_float && s_[begin] == '0' && begin + 1 < s_.size()) {
      const char x = static_cast<char>(s_[begin + 1] | 0x20);
      base = x == 'x' ? 16 : x == 'o' ? 8 : x == 'b' ? 2 : 10;
      if (base != 10) {
        end = begin + 2;
        while (end < s_.size() &&
               (std::isxdigit(static_cast<unsigned char>(s_[end])) || s_[end] == '_'))
          ++end;
      }
    }
    std::string digits = s_.substr(begin, end - begin);
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    if (!is_float) {
      size_t used = 0;
      errno = 0;
      char* stop = nullptr;
      const long long value = std::strtoll(digits.c_str() + (base == 10 ? 0 : 2), &stop, base);
      used = static_cast<size_t>(stop - digits.c_str());
      if (errno == ERANGE) FailAt("the integer " + digits + " does not fit into 64 bits");
      if (used != digits.size()) FailAt("'" + digits + "' is not a number");
      digits = std::to_string(value);
    }
    Emit(is_float ? Tok::kFloat : Tok::kInt, digits);
    pos_ = end;
  }

  void String(char quote) {
    std::string value;
    size_t at = pos_ + 1;
    while (true) {
      if (at >= s_.size()) FailAt("a string is not closed");
      if (s_[at] == quote) break;
      if (s_[at] == '\\')
        at = Escape(at + 1, &value);
      else
        value += s_[at++];
    }
    Emit(Tok::kString, std::move(value));
    Advance(at + 1);
  }

  // One escape sequence, `at` its character after the backslash; returns where the text goes on.
  size_t Escape(size_t at, std::string* value) {
    if (at >= s_.size()) FailAt("a string is not closed");
    const char c = s_[at];
    static constexpr std::string_view kFrom = "abfnrtv\\'\"", kTo = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t i = kFrom.find(c); i != std::string_view::npos) {
      *value += kTo[i];
      return at + 1;
    }
    if (c == '\n') return at + 1;
    uint32_t code = 0;
    if (c >= '0' && c <= '7') {
      size_t end = at;
      for (; end < s_.size() && end < at + 3 && s_[end] >= '0' && s_[end] <= '7'; ++end)
        code = code * 8 + static_cast<uint32_t>(s_[end] - '0');
      text::AppendUtf8(code, value);
      return end;
    }
    const int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      if (c == 'N') FailAt("\\N{...} in strings is not supported");
      *value += '\\';
      return at;
    }
    for (int i = 1; i <= digits; ++i) {
      const size_t p = at + static_cast<size_t>(i);
      if (p >= s_.size() || !std::isxdigit(static_cast<unsigned char>(s_[p])))
        FailAt("a string has a cut off \\" + std::string(1, c) + " escape");
      const char d = s_[p];
      code = code * 16 + static_cast<uint32_t>(IsDigit(d) ? d - '0' : (d | 0x20) - 'a' + 10);
    }
    if (code > 0x10FFFF) FailAt("a string has an escape beyond U+10FFFF");
    text::AppendUtf8(code >= 0xD800 && code < 0xE000 ? 0xFFFD : code, value);
    return at + 1 + static_cast<size_t>(digits);
  }

  void Operator(std::string* brackets) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    for (std::string_view op : kTwo) {
      if (!At(pos_, op)) continue;
      Emit(Tok::kOp, std::string(op));
      pos_ += 2;
      return;
    }
    const char c = s_[pos_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos)
      FailAt(fmt::format("unexpected character '{}'",
                         SubString(std::string_view(s_).substr(pos_), 0, 1)));
    if (c == '(' || c == '[' || c == '{') *brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets->empty() || brackets->back() != c) FailAt(fmt::format("unexpected '{}'", c));
      brackets->pop_back();
    }
    Emit(Tok::kOp, std::string(1, c));
    ++pos_;
  }

  std::string s_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Tokenize(const std::string& source) { return Lexer(source).Run(); }

}  // namespace lserve::jinja
