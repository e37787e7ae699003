// The product that HadamardTransform (plan/kv_codec.h) computes, from its definition: entry (i, j)
// of the matrix of size n is (-1)^popcount(i & j) / sqrt(n).
#pragma once

#include <bit>
#include <cmath>
#include <vector>

namespace lserve::cases {

inline std::vector<double> HadamardProduct(const std::vector<double>& x) {
  const size_t n = x.size() & -x.size();  // the largest power of two that divides it
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    for (size_t j = 0; j < n; ++j)
      y[i] += (std::popcount(i % n & j) % 2 ? -1 : 1) * x[i / n * n + j] /
              std::sqrt(static_cast<double>(n));
  return y;
}

}  // namespace lserve::cases
