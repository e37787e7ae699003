// Python's str operations on valid UTF-8: positions count code points, white space and letter case
// are Unicode's.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_budget.h"

namespace lserve::jinja {

size_t CodePoints(std::string_view s);
size_t CharLength(std::string_view s, size_t pos);   // bytes of the character at `pos`
std::vector<size_t> CharStarts(std::string_view s);  // of each character, and the end
std::string_view SubString(std::string_view s, int64_t start, int64_t count);  // REQUIRES: inside

// Where `part` first or last stands in `s`, or npos. In linear time, or counted as what it takes.
size_t FindText(std::string_view s, std::string_view part);
size_t FindLastText(std::string_view s, std::string_view part);

bool IsSpace(char32_t c);
// `chars` absent: white space.
enum Side { kLeft = 1, kRight = 2, kBoth = 3 };
std::string_view Strip(std::string_view s, int sides, std::optional<std::string_view> chars = {});

std::string Upper(std::string_view s);
std::string Lower(std::string_view s);
std::string TitleCase(std::string_view s);  // str.title()
std::string Capitalize(std::string_view s);
std::string SwapCase(std::string_view s);
bool IsUpper(std::string_view s);
bool IsLower(std::string_view s);
// Every character satisfies the class and there is one: str.isalpha(), ...
enum class CharClass { kAlpha, kDigit, kDecimal, kNumeric, kAlnum, kSpace, kPrintable, kAscii };
bool AllAre(std::string_view s, CharClass c);
bool IsPrintable(char32_t c);

std::vector<std::string_view> SplitSpace(std::string_view s, int64_t limit);
std::vector<std::string_view> SplitSpaceRight(std::string_view s, int64_t limit);
// REQUIRES: !separator.empty(). limit < 0: none.
std::vector<std::string_view> Split(std::string_view s, std::string_view separator, int64_t limit);
std::vector<std::string_view> SplitRight(std::string_view s, std::string_view separator,
                                         int64_t limit);
std::vector<std::string_view> SplitLines(std::string_view s, bool keep_ends);
std::string Replace(std::string_view s, std::string_view from, std::string_view to, int64_t limit);

}  // namespace lserve::jinja
