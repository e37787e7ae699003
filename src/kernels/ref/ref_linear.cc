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

// Inputs that are multiplied together: the same weight row is met by this many rows of x at a time.
constexpr int kLanes = 8;

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
    pool->ParallelFor(weight.rows(), [&](int64_t o, int) {
      std::vector<float> row(static_cast<size_t>(x.cols));
      weight.Dequantize(static_cast<int>(o), row.data());
      for (int r0 = 0; r0 < x.rows; r0 += kLanes) {
        double sum[kLanes] = {};
        const double* group = wide.data() + static_cast<int64_t>(r0) * x.cols;
        for (const float w : row) {
          for (int i = 0; i < kLanes; ++i) sum[i] += static_cast<double>(w) * group[i];
          group += kLanes;
        }
        for (int i = 0; i < std::min(kLanes, x.rows - r0); ++i) {
          float& out = y.Row(r0 + i)[o];
          if (output.bias) sum[i] += output.bias[o];
          if (output.accumulate) sum[i] += out;
          out = static_cast<float>(sum[i]);
        }
      }
    });
  }
}

}  // namespace lserve::ref
