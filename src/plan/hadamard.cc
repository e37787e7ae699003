#include "plan/hadamard.h"

#include <cmath>

namespace lserve {

void HadamardTransform(float* head, int dim) {
  const int size = dim & -dim;
  for (int half = 1; half < size; half *= 2) {
    for (int begin = 0; begin < dim; begin += 2 * half) {
      for (int c = begin; c < begin + half; ++c) {
        const float a = head[c], b = head[c + half];
        head[c] = a + b;
        head[c + half] = a - b;
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  for (int c = 0; c < dim; ++c) head[c] *= scale;
}

}  // namespace lserve
