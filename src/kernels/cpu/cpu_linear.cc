#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/packed_weight.h"

namespace lserve::cpu {
namespace {

constexpr size_t kTaskBytes =
    64 << 10;  // weights a task reads at least: fewer tasks than that only cost synchronisation

const PackedWeight& Packed(const LinearOutput& output) {
  return static_cast<const PackedWeight&>(*output.weight);
}

// y (+)= acc + bias for the outputs of one panel that exist.
void StorePanel(const LinearOutput& output, int panel, int row_begin, int row_count,
                const float* acc) {
  const PackedWeight& weight = Packed(output);
  const int width = weight.panel_rows(), first = panel * width,
            count = std::min(width, weight.rows() - first);
  for (int r = 0; r < row_count; ++r) {
    float* y = output.y.Row(row_begin + r) + first;
    const float* a = acc + static_cast<int64_t>(r) * width;
    for (int i = 0; i < count; ++i) {
      const float value = output.bias ? a[i] + output.bias[first + i] : a[i];
      y[i] = output.accumulate ? y[i] + value : value;
    }
  }
}

}  // namespace

LinearOp::LinearOp(ThreadPool* pool)
    : pool_(pool), per_thread_(static_cast<size_t>(pool->size())) {}

void LinearOp::Run(Mat x, std::span<const LinearOutput> outputs) {
  const CpuKernels& kernels = BestKernels();
  bool quantised = false, bf16 = false;
  for (const LinearOutput& output : outputs) {
    CHECK(Packed(output).cols() == x.cols && output.y.rows == x.rows);
    quantised |= Packed(output).quantised();
    bf16 |= Packed(output).dtype() == DType::kBF16;
  }
  const size_t rows = static_cast<size_t>(x.rows), cols = static_cast<size_t>(x.cols),
               even = (cols + 1) / 2 * 2;
  QuantRows q{};
  if (quantised)
    q = {codes_.Get<int8_t>(rows * cols), scales_.Get<float>(rows * cols / 32),
         sums_.Get<float>(rows * cols / 16)};
  uint16_t* x16 = bf16 ? bf16_.Get<uint16_t>(rows * even) : nullptr;
  const auto convert = [&](int64_t r, int) {
    const size_t row = static_cast<size_t>(r);
    if (quantised) {
      kernels.quantize_row(x.Row(static_cast<int>(r)), x.cols, q.codes + row * cols,
                           q.scales + row * (cols / 32), q.sums + row * (cols / 16));
    }
    if (bf16) {
      kernels.to_bf16_row(x.Row(static_cast<int>(r)), x.cols, x16 + row * even);
      if (even != cols) x16[row * even + cols] = 0;
    }
  };
  if (quantised || bf16) {
    if (x.rows < 8)
      for (int r = 0; r < x.rows; ++r) convert(r, 0);
    else
      pool_->ParallelFor(x.rows, convert);
  }

  // A task is some consecutive panels of one output and up to kGemmRows rows.
  struct Task {
    int output, panel_begin, panel_end, row_begin, row_count;
  };
  std::vector<Task> tasks;
  for (int row = 0; row < x.rows; row += kGemmRows) {
    const int row_count = std::min(kGemmRows, x.rows - row);
    for (size_t o = 0; o < outputs.size(); ++o) {
      const PackedWeight& weight = Packed(outputs[o]);
      // Many rows mean much work a panel; few rows mean tasks bounded by the bytes they stream.
      const size_t per_task =
          row_count >= 16 ? 1 : std::max<size_t>(1, kTaskBytes / weight.panel_bytes());
      for (int p = 0; p < weight.panels(); p += static_cast<int>(per_task))
        tasks.push_back({static_cast<int>(o), p,
                         std::min(p + static_cast<int>(per_task), weight.panels()), row,
                         row_count});
    }
  }
  pool_->ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t index, int thread) {
    const Task& task = tasks[static_cast<size_t>(index)];
    const LinearOutput& output = outputs[static_cast<size_t>(task.output)];
    const PackedWeight& weight = Packed(output);
    float* acc = per_thread_[static_cast<size_t>(thread)].Get<float>(kGemmRows * 64 +
                                                                     kQuantScratch / sizeof(float));
    for (int p = task.panel_begin; p < task.panel_end; ++p) {
      if (weight.quantised()) {
        kernels.gemm_quant({weight.format(), weight.panel(p), x.cols, &q, task.row_begin,
                            task.row_count, acc, acc + kGemmRows * 64});
      } else if (weight.dtype() == DType::kBF16) {
        kernels.gemm_bf16({weight.panel(p), static_cast<int>(even),
                           x16 + static_cast<size_t>(task.row_begin) * even,
                           static_cast<int64_t>(even), task.row_count, acc});
      } else {
        const auto gemm = weight.dtype() == DType::kF16 ? kernels.gemm_f16 : kernels.gemm_f32;
        gemm({weight.panel(p), x.cols, x.Row(task.row_begin), x.stride, task.row_count, acc});
      }
      StorePanel(output, p, task.row_begin, task.row_count, acc);
    }
  });
}

}  // namespace lserve::cpu
