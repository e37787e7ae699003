// A tokenizer.json of any bytes: an error, or a tokenizer that encodes and decodes. The input may
// have a tokenizer_config.json after a zero byte.
#include <cstdint>
#include <string>

#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const std::string config = end == std::string::npos ? "" : input.substr(end + 1);
  lserve::Result<lserve::TokenizerSpec> spec =
      lserve::ParseTokenizerJson(input.substr(0, end), config, "input");
  if (!spec.ok()) return 0;
  lserve::Result<std::unique_ptr<lserve::Tokenizer>> made =
      lserve::Tokenizer::Create(std::move(*spec));
  if (!made.ok()) return 0;
  const lserve::Tokenizer& tokenizer = **made;
  for (const bool special : {false, true}) {
    const std::vector<int32_t> ids = tokenizer.Encode(
        "<s> Hello, w\xc3\xb6rld 42!\n\n  \xe4\xba\xba a\xcc\x81 \xff </s>", true, special);
    lserve::StreamDecoder stream(&tokenizer, special);
    std::string text;
    for (const int32_t id : ids) text += stream.Push(id);
    text += stream.Finish();
    if (text != tokenizer.Decode(ids, special)) __builtin_trap();
    for (const int32_t id : ids) {
      if (id < 0 || id >= tokenizer.vocab_size()) __builtin_trap();
    }
  }
  return 0;
}
