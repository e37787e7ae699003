#include "text/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "text/utf8.h"

namespace lserve::text {
namespace {

struct Alphabet {
  std::array<char32_t, 256> character;
  std::array<int, 0x144> byte;  // by character; -1: none

  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
      character[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = b;
    }
  }
};

const Alphabet& GetAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::string FromByteAlphabet(std::string_view piece) {
  const Alphabet& alphabet = GetAlphabet();
  std::string out;
  for (size_t pos = 0; pos < piece.size();) {
    const Utf8Char c = DecodeUtf8(piece, pos);
    if (!c.valid || c.code >= alphabet.byte.size() || alphabet.byte[c.code] < 0) {
      return std::string(piece);
    }
    out += static_cast<char>(alphabet.byte[c.code]);
    pos += c.length;
  }
  return out;
}

std::string ToByteAlphabet(std::string_view bytes) {
  std::string out;
  for (const char b : bytes) AppendUtf8(GetAlphabet().character[static_cast<uint8_t>(b)], &out);
  return out;
}

}  // namespace lserve::text
