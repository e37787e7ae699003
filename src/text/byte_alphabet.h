// GPT-2's byte alphabet: printable characters that stand for the 256 bytes in the vocabularies of
// byte-level tokenizers. Printable Latin-1 stands for itself, the other bytes for U+0100 and on.
// Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace lserve::text {

// The bytes of a piece; a piece that has other characters stands for itself.
std::string FromByteAlphabet(std::string_view piece);

std::string ToByteAlphabet(std::string_view bytes);

}  // namespace lserve::text
