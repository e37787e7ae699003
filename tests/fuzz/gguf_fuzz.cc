// Fuzzes the GGUF reader and what reads configuration and tokenizer out of it: any bytes give an
// error or a file whose every tensor and value can be read.
#include <cstddef>
#include <cstdint>
#include <span>

#include "model/config_gguf.h"
#include "model/gguf.h"
#include "model/gguf_tokenizer_spec.h"
#include "quant/block_formats.h"

namespace {

volatile uint8_t sink;

void ReadAll(const lserve::TensorView& tensor) {
  const int64_t bytes = lserve::RowBytes(tensor.dtype, tensor.cols) * tensor.rows;
  sink = static_cast<uint8_t>(tensor.data[0]);
  sink = static_cast<uint8_t>(tensor.data[bytes - 1]);
}

void ReadAll(const lserve::GgufValue& value) {
  value.Integer();
  value.Real();
  value.Bool();
  value.String();
  value.Integers();
  value.Reals();
  value.Strings();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const lserve::Result<lserve::GgufFile> file = lserve::ParseGguf(bytes, "input");
  if (!file.ok()) return 0;
  for (const lserve::TensorView& tensor : file.value().tensors) ReadAll(tensor);
  for (const auto& [key, value] : file.value().metadata) ReadAll(value);
  const lserve::Result<lserve::ModelConfig> config = lserve::ConfigFromGguf(file.value(), "input");
  if (config.ok() && config.value().q_heads % config.value().kv_heads != 0) __builtin_trap();
  const lserve::Result<lserve::TokenizerSpec> tokenizer =
      lserve::TokenizerFromGguf(file.value(), "input");
  sink = tokenizer.ok();
  return 0;
}
