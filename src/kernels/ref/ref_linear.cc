#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/ref/ref_ops.h"
#include "quant/block_formats.h"

namespace lserve::ref {
namespace {

// Rows in order, in their stored type.
class RefWeight : public Weight {
 public:
  RefWeight(DType dtype, int rows, int cols)
      : dtype_(dtype),
        rows_(rows),
        cols_(cols),
        data_(static_cast<size_t>(rows) * static_cast<size_t>(RowBytes(dtype, cols))) {}

  int rows() const override { return rows_; }
  int cols() const override { return cols_; }
  size_t bytes() const override { return data_.size(); }

  std::byte* Row(int row) { return data_.data() + row * RowBytes(dtype_, cols_); }
  // out = the `cols` values of a row.
  void Dequantize(int row, float* out) const {
    DequantizeRow(dtype_, data_.data() + row * RowBytes(dtype_, cols_), cols_, out);
  }

 private:
  DType dtype_;
  int rows_, cols_;
  std::vector<std::byte> data_;
};

// Rows of x that meet a weight together, and weight rows that are dequantised together: without
// them 4K tokens of a real model would take hours. Neither changes a sum.
constexpr int kLanes = 8, kOutputs = 16;

// x as doubles, [ceil(rows / kLanes)][cols][kLanes], zeros past the last row.
std::vector<double> Widen(Mat x) {
  const int groups = (x.rows + kLanes - 1) / kLanes;
  std::vector<double> wide(static_cast<size_t>(groups) * x.cols * kLanes);
  for (int r = 0; r < x.rows; ++r) {
    double* group = wide.data() + static_cast<int64_t>(r / kLanes) * x.cols * kLanes;
    for (int c = 0; c < x.cols; ++c)
      group[static_cast<int64_t>(c) * kLanes + r % kLanes] = x.Row(r)[c];
  }
  return wide;
}

// sum[i] += w . column i of x. In order: a row's sum is the same whatever its neighbours.
void Dot(const float* w, const double* x, int cols, double* sum) {
  for (int c = 0; c < cols; ++c, x += kLanes)
    for (int i = 0; i < kLanes; ++i) sum[i] += static_cast<double>(w[c]) * x[i];
}

}  // namespace

Result<std::unique_ptr<Weight>> Prepare(const TensorView& tensor, bool to_bf16) {
  const DTypeInfo& info = Info(tensor.dtype);
  if (tensor.cols % info.block_elements != 0)
    return InvalidArgument("{}: {} columns are not a multiple of {}'s blocks of {}", tensor.name,
                           tensor.cols, info.name, info.block_elements);
  if (tensor.rows < 0 || tensor.rows > kNoWindow || tensor.cols < 0 || tensor.cols > kNoWindow)
    return InvalidArgument("{}: shape {} x {} is out of range", tensor.name, tensor.rows,
                           tensor.cols);
  const int rows = static_cast<int>(tensor.rows), cols = static_cast<int>(tensor.cols);
  auto weight = std::make_unique<RefWeight>(to_bf16 ? DType::kBF16 : tensor.dtype, rows, cols);
  std::vector<float> values(static_cast<size_t>(cols));
  std::vector<uint16_t> rounded(static_cast<size_t>(cols));
  for (int r = 0; r < rows; ++r) {
    if (!to_bf16) {
      std::copy_n(tensor.Row(r), RowBytes(tensor.dtype, cols), weight->Row(r));
      continue;
    }
    DequantizeRow(tensor.dtype, tensor.Row(r), cols, values.data());
    std::transform(values.begin(), values.end(), rounded.begin(), ToBf16);
    std::copy_n(reinterpret_cast<const std::byte*>(rounded.data()), rounded.size() * 2,
                weight->Row(r));
  }
  return std::unique_ptr<Weight>(std::move(weight));
}

void Embed(const Weight& table, std::span<const int32_t> ids, Mat out, ThreadPool* pool) {
  const auto& weight = static_cast<const RefWeight&>(table);
  CHECK(out.rows == static_cast<int>(ids.size()) && out.cols == weight.cols());
  pool->ParallelFor(out.rows, [&](int64_t row, int) {
    const int32_t id = ids[static_cast<size_t>(row)];
    CHECK(id >= 0 && id < weight.rows());
    weight.Dequantize(id, out.Row(static_cast<int>(row)));
  });
}

void Linear(Mat x, std::span<const LinearOutput> outputs, ThreadPool* pool) {
  const std::vector<double> wide = Widen(x);
  for (const LinearOutput& output : outputs) {
    const auto& weight = static_cast<const RefWeight&>(*output.weight);
    const Mat y = output.y;
    CHECK(weight.cols() == x.cols && y.cols == weight.rows() && y.rows == x.rows);
    pool->ParallelFor((weight.rows() + kOutputs - 1) / kOutputs, [&](int64_t chunk, int) {
      const int begin = static_cast<int>(chunk) * kOutputs;
      const int end = std::min(begin + kOutputs, weight.rows());
      std::vector<float> w(static_cast<size_t>(kOutputs) * x.cols);
      for (int o = begin; o < end; ++o)
        weight.Dequantize(o, w.data() + static_cast<int64_t>(o - begin) * x.cols);
      for (int r = 0; r < x.rows; r += kLanes) {
        for (int o = begin; o < end; ++o) {
          double sum[kLanes] = {};
          Dot(w.data() + static_cast<int64_t>(o - begin) * x.cols,
              wide.data() + static_cast<int64_t>(r) * x.cols, x.cols, sum);
          for (int i = 0; i < std::min(kLanes, x.rows - r); ++i) {
            float& out = y.Row(r + i)[o];
            if (output.bias) sum[i] += output.bias[o];
            if (output.accumulate) sum[i] += out;
            out = static_cast<float>(sum[i]);
          }
        }
      }
    });
  }
}

}  // namespace lserve::ref
