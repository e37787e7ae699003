// Fuzzes the safetensors reader: any bytes give an error or tensors that can be read.
#include <cstddef>
#include <cstdint>
#include <span>

#include "model/safetensors.h"

namespace {
volatile uint8_t sink;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto tensors = lserve::ParseSafetensors(bytes, "input");
  if (!tensors.ok()) return 0;
  for (const lserve::TensorView& tensor : tensors.value()) {
    const int64_t stored = lserve::RowBytes(tensor.dtype, tensor.cols) * tensor.rows;
    sink = static_cast<uint8_t>(tensor.data[0]);
    sink = static_cast<uint8_t>(tensor.data[stored - 1]);
  }
  return 0;
}
