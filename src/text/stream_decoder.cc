#include "text/tokenizer.h"
#include "text/utf8.h"

namespace lserve {

StreamDecoder::StreamDecoder(const Tokenizer* tokenizer, bool special)
    : tokenizer_(tokenizer), special_(special), strip_(tokenizer->strips_leading_space()) {}

std::string StreamDecoder::Push(int32_t id) {
  std::string bytes = tokenizer_->TokenBytes(id, special_);
  if (bytes.empty()) return {};
  if (strip_) {
    strip_ = false;
    if (bytes[0] == ' ') bytes.erase(0, 1);
  }
  pending_ += bytes;
  const std::string joined = std::move(pending_);
  std::string out;
  text::AppendValidUtf8(joined, &out, &pending_);
  return out;
}

std::string StreamDecoder::Finish() {
  std::string out;
  text::AppendValidUtf8(pending_, &out);
  pending_.clear();
  return out;
}

}  // namespace lserve
