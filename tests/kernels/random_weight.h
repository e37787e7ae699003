// Random stored matrices of every DType, with all bit patterns in their codes and sane scales.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "quant/block_formats.h"

namespace lserve::testing {

inline constexpr DType kAllTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0,
                                      DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                      DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// Owns the bytes at an odd address: files promise no alignment.
class RandomWeight {
 public:
  RandomWeight(DType type, int rows, int cols, uint64_t seed) : random_(seed) {
    bytes_.resize(static_cast<size_t>(rows * RowBytes(type, cols)) + 1);
    view_ = {"random", type, rows, cols, bytes_.data() + 1, 0};
    const DTypeInfo& info = Info(type);
    const int64_t blocks = static_cast<int64_t>(rows) * cols / info.block_elements;
    for (int64_t b = 0; b < blocks; ++b) FillBlock(type, bytes_.data() + 1 + b * info.block_bytes);
  }
  TensorView view() const { return view_; }
  // `heads` heads whose rows lie in interleaved rotary order.
  TensorView Interleaved(int heads) const {
    TensorView view = view_;
    view.interleaved_heads = heads;
    return view;
  }

 private:
  void Put16(std::byte* at, uint16_t bits) {
    std::copy_n(reinterpret_cast<std::byte*>(&bits), 2, at);
  }
  void FillBlock(DType type, std::byte* block) {
    std::normal_distribution<float> normal(0, 0.05f);
    if (type == DType::kF32) {
      const float value = normal(random_);
      std::copy_n(reinterpret_cast<const std::byte*>(&value), 4, block);
      return;
    }
    if (type == DType::kF16) return Put16(block, ToF16(normal(random_)));
    if (type == DType::kBF16) return Put16(block, ToBf16(normal(random_)));
    for (int i = 0; i < Info(type).block_bytes; ++i) block[i] = static_cast<std::byte>(random_());
    const float scale = 0.002f + 0.01f * static_cast<float>(random_() % 1000) / 1000.0f;
    const bool k_type = type >= DType::kQ4_K;
    const float sign = !k_type && random_() % 2 ? -1.0f : 1.0f;
    Put16(block + (type == DType::kQ6_K ? 208 : 0),
          ToF16(sign * (k_type                 ? scale / 32
                        : type == DType::kQ8_0 ? scale / 16
                                               : scale)));
    if (type == DType::kQ4_1 || type == DType::kQ5_1) Put16(block + 2, ToF16(-8 * sign * scale));
    if (type == DType::kQ4_K || type == DType::kQ5_K) Put16(block + 2, ToF16(scale / 4));
  }

  std::mt19937_64 random_;
  std::vector<std::byte> bytes_;
  TensorView view_;
};

// The values of row `row` in half-split order.
inline std::vector<float> RowValues(const TensorView& tensor, int64_t row) {
  std::vector<float> values(static_cast<size_t>(tensor.cols));
  DequantizeRow(tensor.dtype, tensor.Row(row), tensor.cols, values.data());
  return values;
}

}  // namespace lserve::testing
