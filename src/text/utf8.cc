#include "text/utf8.h"

namespace lserve::text {

Utf8Char DecodeUtf8(std::string_view text, size_t pos) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(pos);
  if (lead < 0x80) return {lead, 1, true, false};
  if (lead < 0xc2 || lead > 0xf4) return {0xfffd, 1, false, false};
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  char32_t code = lead & (0xffu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (pos + i >= text.size()) return {0xfffd, i, false, true};
    const unsigned char b = byte(pos + i);
    bool ok = (b & 0xc0) == 0x80;
    if (i == 1) {  // no overlong forms, surrogates or values above U+10FFFF
      if (lead == 0xe0) ok = ok && b >= 0xa0;
      if (lead == 0xed) ok = ok && b < 0xa0;
      if (lead == 0xf0) ok = ok && b >= 0x90;
      if (lead == 0xf4) ok = ok && b < 0x90;
    }
    if (!ok) return {0xfffd, i, false, false};
    code = (code << 6) | (b & 63u);
  }
  return {code, length, true, false};
}

void AppendUtf8(char32_t c, std::string* out) {
  const auto put = [&](char32_t b) { out->push_back(static_cast<char>(b)); };
  if (c < 0x80) {
    put(c);
    return;
  }
  if (c < 0x800) {
    put(0xc0 | (c >> 6));
  } else {
    if (c < 0x10000) {
      put(0xe0 | (c >> 12));
    } else {
      put(0xf0 | (c >> 18));
      put(0x80 | ((c >> 12) & 63));
    }
    put(0x80 | ((c >> 6) & 63));
  }
  put(0x80 | (c & 63));
}

bool IsValidUtf8(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = DecodeUtf8(text, pos);
    if (!c.valid) return false;
    pos += c.length;
  }
  return true;
}

void AppendValidUtf8(std::string_view text, std::string* out, std::string* pending) {
  if (pending) pending->clear();
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = DecodeUtf8(text, pos);
    if (c.cut_off && pending) {
      *pending = text.substr(pos);
      return;
    }
    if (c.valid)
      out->append(text.substr(pos, c.length));
    else
      AppendUtf8(0xfffd, out);
    pos += c.length;
  }
}

}  // namespace lserve::text
