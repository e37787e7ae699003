#include "text/added_tokens.h"

#include <utf8proc.h>

#include "text/utf8.h"

namespace lserve::text {
namespace {

// Unicode's White_Space.
bool IsSpace(char32_t c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

// What a regular expression's \w matches.
bool IsWord(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9);
  }
}

// The character that ends at `end`. REQUIRES: end > 0, valid UTF-8.
size_t StartOfCharacterBefore(std::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80);
  return end;
}

}  // namespace

Status AddedTokenMatcher::Add(const TokenizerSpec::AddedToken& token) {
  constexpr size_t kMaxLength = 1024, kMaxNodes = 4'000'000;
  if (token.text.empty()) return Ok();  // never found
  if (!IsValidUtf8(token.text)) {
    return InvalidArgument("added_tokens: the text of id {} is not valid UTF-8", token.id);
  }
  if (token.text.size() > kMaxLength) {
    return Unsupported("added_tokens: the text of id {} has {} bytes, the limit is {}", token.id,
                       token.text.size(), kMaxLength);
  }
  if (nodes_ > kMaxNodes) return ResourceExhausted("added_tokens: more than {} bytes", kMaxNodes);
  first_byte_[static_cast<uint8_t>(token.text[0])] = true;
  uint32_t node = 0;
  for (const char byte : token.text) {
    const auto [edge, added] = edges_.emplace(Edge(node, byte), nodes_);
    if (added) ++nodes_;
    node = edge->second;
  }
  ends_[node] = static_cast<uint32_t>(tokens_.size());
  tokens_.push_back(
      {token.id, token.text.size(), token.special, token.lstrip, token.rstrip, token.single_word});
  return Ok();
}

const AddedTokenMatcher::Token* AddedTokenMatcher::FindNext(std::string_view text,
                                                            size_t* pos) const {
  if (tokens_.empty()) return nullptr;
  for (size_t begin = *pos; begin < text.size(); ++begin) {
    if (!first_byte_[static_cast<uint8_t>(text[begin])]) continue;
    const Token* longest = nullptr;
    uint32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      const auto edge = edges_.find(Edge(node, text[i]));
      if (edge == edges_.end()) break;
      node = edge->second;
      if (const auto end = ends_.find(node); end != ends_.end()) longest = &tokens_[end->second];
    }
    if (longest) {
      *pos = begin;
      return longest;
    }
  }
  return nullptr;
}

bool AddedTokenMatcher::Fits(const Token& token, std::string_view text, bool parse_special,
                             size_t done, size_t* begin, size_t* end) {
  if (token.special && !parse_special) return false;
  if (token.single_word) {
    if (*begin > 0 && IsWord(DecodeUtf8(text, StartOfCharacterBefore(text, *begin)).code)) {
      return false;
    }
    if (*end < text.size() && IsWord(DecodeUtf8(text, *end).code)) return false;
  }
  if (token.lstrip) {
    while (*begin > done) {
      const size_t before = StartOfCharacterBefore(text, *begin);
      if (!IsSpace(DecodeUtf8(text, before).code)) break;
      *begin = before;
    }
  }
  if (token.rstrip) {
    while (*end < text.size()) {
      const Utf8Char next = DecodeUtf8(text, *end);
      if (!IsSpace(next.code)) break;
      *end += next.length;
    }
  }
  return true;
}

}  // namespace lserve::text
