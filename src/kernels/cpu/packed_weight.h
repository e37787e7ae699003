// Weights as the CPU kernels read them: the stored bits, reordered once at load so that one
// sequential stream feeds all lanes. Nothing is widened: a block format keeps its codes and scales
// (8-bit scales where the K formats have 6-bit ones), 16-bit types stay 16 bits.
//
// Floating types: panels of 64 outputs. bf16 [inputs / 2][64][2]; f16 and f32 [inputs][64]. Missing
// outputs and an odd last input are zero.
//
// Block formats: panels of 16 outputs, blocks of 32 inputs one after the other:
//   [every 8 blocks, K formats: d f16[16], then (Q4_K, Q5_K) dmin f16[16]]
//   scales   Q4_0 Q5_0 Q8_0: d f16[16];  Q4_1 Q5_1: d f16[16], m f16[16];  Q4_K Q5_K: scale u8[16],
//   minimum u8[16];  Q6_K: scale s8[16] for each 16 inputs codes    unsigned, index (input / 4) *
//   64 + output * 4 + input % 4 over the block, in vectors of 64:
//            8 bits: as they are (Q8_0: code + 128);  4 bits: byte i holds code i (low) and code i
//            + 256 (high);  5 bits: the same, then one 64-bit word a vector with the fifth bits;  6
//            bits: the same, then 128 bytes, byte i with the two high bits of codes i, i + 128, i +
//            256, i + 384.
#pragma once

#include <memory>
#include <vector>

#include "core/buffer.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

namespace lserve {

class PackedWeight : public Weight {
 public:
  // REQUIRES: cols a multiple of the type's block. `to_bf16` packs the dequantised values as bf16.
  PackedWeight(const TensorView& tensor, bool to_bf16, ThreadPool* pool);

  int rows() const override { return rows_; }
  int cols() const override { return cols_; }
  size_t bytes() const override { return buffer_.size(); }

  DType dtype() const { return dtype_; }
  bool quantised() const { return !IsFloat(dtype_); }
  const QuantFormat& format() const { return format_; }
  int panel_rows() const { return quantised() ? 16 : 64; }
  int panels() const { return (rows_ + panel_rows() - 1) / panel_rows(); }
  const uint8_t* panel(int index) const {
    return buffer_.as<uint8_t>() + static_cast<size_t>(index) * panel_bytes_;
  }
  size_t panel_bytes() const { return panel_bytes_; }

  // One output's weights as floats (embedding lookup). `out` [cols].
  void UnpackRow(int row, float* out) const;

 private:
  int rows_, cols_;
  DType dtype_;
  QuantFormat format_{};
  size_t panel_bytes_ = 0;
  Buffer buffer_;
};

}  // namespace lserve
