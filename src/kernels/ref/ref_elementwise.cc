#include <cmath>

#include "kernels/ref/ref_ops.h"

namespace lserve::ref {

void RmsNorm(Mat x, const float* weight, float eps, Mat out, ThreadPool* pool) {
  CHECK(out.rows == x.rows && out.cols == x.cols);
  pool->ParallelFor(x.rows, [&](int64_t row, int) {
    const float* in = x.Row(static_cast<int>(row));
    float* result = out.Row(static_cast<int>(row));
    double squares = 0;
    for (int c = 0; c < x.cols; ++c) squares += static_cast<double>(in[c]) * in[c];
    const double scale = 1 / std::sqrt(squares / x.cols + eps);
    for (int c = 0; c < x.cols; ++c) result[c] = static_cast<float>(in[c] * scale * weight[c]);
  });
}

void SiluMul(Mat gate, Mat up, Mat out, ThreadPool* pool) {
  CHECK(out.rows == gate.rows && out.cols == gate.cols);
  CHECK(up.rows == gate.rows && up.cols == gate.cols);
  pool->ParallelFor(gate.rows, [&](int64_t row, int) {
    const float* g = gate.Row(static_cast<int>(row));
    const float* u = up.Row(static_cast<int>(row));
    float* result = out.Row(static_cast<int>(row));
    for (int c = 0; c < gate.cols; ++c) {
      const double x = g[c];
      result[c] = static_cast<float>(x / (1 + std::exp(-x)) * u[c]);
    }
  });
}

}  // namespace lserve::ref
