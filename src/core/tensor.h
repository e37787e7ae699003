// Views of tensors that somebody else owns. TensorView is a stored weight of any type; Mat is a
// dense row-major matrix that an op reads or writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/check.h"
#include "core/dtype.h"

namespace lserve {

// A weight as it lies in a (mapped) file: [rows][cols], rows contiguous, cols the input dimension.
// A vector has rows == 1.
struct TensorView {
  std::string name;  // canonical name, see model/weights.h
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  const std::byte* data = nullptr;  // rows * RowBytes(dtype, cols) bytes; alignment is not promised
  // 0, or the number of heads whose rows are stored in the interleaved rotary order of Llama GGUFs:
  // stored row 2i (2i + 1) of a head is row i (i + D/2) of the half-split order that all of lserve
  // uses. SourceRow translates.
  int interleaved_heads = 0;

  // The stored row that holds row `row` of the half-split order.
  int64_t SourceRow(int64_t row) const {
    if (interleaved_heads == 0) return row;
    const int64_t dim = rows / interleaved_heads, base = row / dim * dim, i = row - base;
    return base + (i < dim / 2 ? 2 * i : 2 * (i - dim / 2) + 1);
  }
  const std::byte* Row(int64_t row) const { return data + SourceRow(row) * RowBytes(dtype, cols); }
};

// float matrix [rows][cols], row-major with `stride` elements between rows.
struct Mat {
  float* data = nullptr;
  int rows = 0, cols = 0;
  int64_t stride = 0;

  Mat() = default;
  Mat(float* d, int r, int c) : Mat(d, r, c, c) {}
  Mat(float* d, int r, int c, int64_t s) : data(d), rows(r), cols(c), stride(s) {}
  float* Row(int row) const { return data + row * stride; }
  Mat Rows(int begin, int count) const { return {Row(begin), count, cols, stride}; }
  Mat Cols(int begin, int count) const { return {data + begin, rows, count, stride}; }
};

}  // namespace lserve
