// UTF-8: decoding, encoding and repair. Pure functions, any thread. Ill-formed input is replaced by
// U+FFFD, one for each maximal subpart (Unicode 3.9, as most decoders do).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lserve::text {

struct Utf8Char {
  char32_t code = 0;  // U+FFFD where the bytes are ill-formed
  size_t length = 1;  // bytes: of the character, or of the maximal ill-formed subpart
  bool valid = false;
  bool cut_off = false;  // the text ends inside what may become a character
};

// The character at `pos`. REQUIRES: pos < text.size().
Utf8Char DecodeUtf8(std::string_view text, size_t pos);
void AppendUtf8(char32_t code, std::string* out);
bool IsValidUtf8(std::string_view text);

// Appends `text`, repaired, to `out`. With `pending`, a begun character at the end goes there
// instead (at most three bytes); without, it is replaced too.
void AppendValidUtf8(std::string_view text, std::string* out, std::string* pending = nullptr);

}  // namespace lserve::text
