// Linear layers through cuBLASLt. The first use of a shape asks the library for candidates and, for
// the shapes of decode and of whole chunks, times them on the spot; later uses look the choice up,
// so that a captured graph holds the measured one. A deterministic product takes one algorithm for
// all lengths, the library's first that does not split the sum. One thread.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/device.h"

namespace lserve::cuda {

class Matmul {
 public:
  Matmul();
  Matmul(const Matmul&) = delete;
  ~Matmul();
  // An empty string, or what failed.
  std::string Init();
  std::string Run(const MatmulArgs& args, cudaStream_t stream);

 private:
  struct Choice;
  // rows, cols, n, wide, accumulate, deterministic
  using Key = std::tuple<int, int, int, bool, bool, bool>;
  std::string Choose(const MatmulArgs& args, cudaStream_t stream, Choice* choice);
  std::string ChooseForAllLengths(const MatmulArgs& args, Choice* choice);
  std::string Candidates(const MatmulArgs& args, const Choice& choice,
                         std::vector<cublasLtMatmulHeuristicResult_t>* found);

  cublasLtHandle_t handle_ = nullptr;
  std::byte* workspace_ = nullptr;
  std::map<Key, std::unique_ptr<Choice>> choices_;
  std::map<Key, cublasLtMatmulAlgo_t> for_all_lengths_;  // n is 0
};

}  // namespace lserve::cuda
