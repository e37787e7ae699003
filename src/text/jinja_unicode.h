// Letter case and numbers of Unicode that utf8proc's one-to-one functions do not know: characters
// whose upper or title case is several characters (SpecialCasing.txt, its unconditional part), and
// digits and numbers outside the general categories for them (Numeric_Type of UnicodeData.txt and
// Unihan). Constant tables, any thread.
#pragma once

#include <string_view>

namespace lserve::jinja {

// Upper or title case of `c` where it is several characters, else empty.
std::string_view SpecialUpper(char32_t c);
std::string_view SpecialTitle(char32_t c);
// Numeric_Type=Digit, but no decimal digit.
bool IsSpecialDigit(char32_t c);
// A letter with a numeric value, as the Chinese numerals.
bool IsNumericLetter(char32_t c);

}  // namespace lserve::jinja
