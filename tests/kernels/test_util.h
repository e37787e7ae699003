// What the kernel tests share: backends by name, and comparisons that report the worst element.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/ops.h"

namespace lserve::testing {

// The GPU's backend is among them where there is one (CudaTest.RunsHere says so).
inline const std::vector<const char*>& Backends() {
  static const std::vector<const char*> all = [] {
    std::vector<const char*> names = {"ref", "cpu"};
    if (OpenDevice(0).ok()) names.push_back("cuda");
    return names;
  }();
  return all;
}
inline bool IsCuda(const std::string& backend) { return backend == "cuda"; }

// A backend with threads of its own.
class Backend {
 public:
  explicit Backend(const std::string& name, int threads = 2) : pool_(threads) {
    Result<std::unique_ptr<Ops>> ops = MakeOps(name, &pool_);
    CHECK(ops.ok());
    ops_ = *std::move(ops);
  }
  Ops* operator->() const { return ops_.get(); }

 private:
  ThreadPool pool_;
  std::unique_ptr<Ops> ops_;
};

// Backends live as long as the program: tests are many and threads cost time to start.
inline Ops& Shared(const std::string& name, int threads = 2) {
  static std::vector<std::pair<std::string, std::unique_ptr<Backend>>> backends;
  const std::string key = name + std::to_string(threads);
  for (const auto& [have, backend] : backends)
    if (have == key) return *backend->operator->();
  backends.emplace_back(key, std::make_unique<Backend>(name, threads));
  return *backends.back().second->operator->();
}

// Rows of numbers with room to spare after each, NaN there and at first everywhere.
struct Matrix {
  Matrix(int rows, int cols, int padding = 0)
      : data(static_cast<size_t>(rows) * (cols + padding), std::nanf("")),
        mat(data.data(), rows, cols, cols + padding) {}
  Matrix(const Matrix&) = delete;
  std::vector<float> data;
  Mat mat;
};

// Same bits, NaN padding included.
inline bool SameBits(const float* a, const float* b, int64_t n) {
  return n == 0 || std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}
inline bool SameBits(Mat a, Mat b) {
  if (a.rows != b.rows || a.cols != b.cols) return false;
  for (int r = 0; r < a.rows; ++r)
    if (!SameBits(a.Row(r), b.Row(r), a.cols)) return false;
  return true;
}

// Collects |actual - expected| / allowed and keeps the worst.
class Worst {
 public:
  void Add(double actual, double expected, double allowed, const std::string& where) {
    if (actual == expected) return;
    const double ratio = std::abs(actual - expected) / allowed;
    if (ratio <= ratio_) return;  // false for NaN too, which is kept and fails
    if (std::isnan(ratio_)) return;
    ratio_ = ratio;
    text_ = fmt::format("{}: {:g} instead of {:g}, allowed error {:g}", where, actual, expected,
                        allowed);
  }
  bool ok() const { return ratio_ <= 1; }
  double ratio() const { return ratio_; }
  const std::string& text() const { return text_; }

 private:
  double ratio_ = 0;
  std::string text_;
};

}  // namespace lserve::testing
