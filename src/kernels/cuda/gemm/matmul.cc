#include "kernels/cuda/gemm/matmul.h"

#include <algorithm>
#include <utility>

namespace lserve::cuda {
namespace {

constexpr size_t kWorkspace = size_t{64} << 20;
constexpr int kCandidates = 8, kRepetitions = 5;
constexpr int kMeasuredRows = 2048;  // up to so many every length is measured, then multiples
constexpr int kUsualLength = 512;    // rows that deterministic products choose their algorithm for

std::string Failed(const char* what, const MatmulArgs& a, int status) {
  return std::string("cublasLt: ") + what + " of a product [" + std::to_string(a.n) + " x " +
         std::to_string(a.cols) + "] by [" + std::to_string(a.cols) + " x " +
         std::to_string(a.rows) + "]: status " + std::to_string(status);
}

}  // namespace

// Row-major y = x w^T is column-major y^T = w x^T, all leading dimensions being row lengths.
struct Matmul::Choice {
  explicit Choice(const MatmulArgs& a) {
    const cudaDataType_t out = a.wide ? CUDA_R_32F : CUDA_R_16BF;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                   sizeof transposed);
    cublasLtMatrixLayoutCreate(&w, CUDA_R_16BF, a.cols, a.rows, a.cols);
    cublasLtMatrixLayoutCreate(&x, CUDA_R_16BF, a.cols, a.n, a.cols);
    cublasLtMatrixLayoutCreate(&y, out, a.rows, a.n, a.rows);
  }
  Choice(const Choice&) = delete;
  ~Choice() {
    if (w) cublasLtMatrixLayoutDestroy(w);
    if (x) cublasLtMatrixLayoutDestroy(x);
    if (y) cublasLtMatrixLayoutDestroy(y);
    if (product) cublasLtMatmulDescDestroy(product);
  }
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

Matmul::Matmul() = default;

Matmul::~Matmul() {
  choices_.clear();
  if (handle_) cublasLtDestroy(handle_);
  if (workspace_) cudaFree(workspace_);
}

std::string Matmul::Init() {
  if (cublasLtCreate(&handle_) != CUBLAS_STATUS_SUCCESS) return "cublasLt: cannot be initialised";
  if (cudaMalloc(reinterpret_cast<void**>(&workspace_), kWorkspace) != cudaSuccess)
    return "cublasLt: no memory for its workspace of 64 MiB";
  return "";
}

std::string Matmul::Candidates(const MatmulArgs& a, const Choice& c,
                               std::vector<cublasLtMatmulHeuristicResult_t>* found) {
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulPreferenceCreate(&preference);
  // Deterministic: no partial sums, and no room for any.
  const size_t room = a.deterministic ? 0 : kWorkspace;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
                                       sizeof room);
  if (a.deterministic) {
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                         &schemes, sizeof schemes);
  }
  found->resize(kCandidates);
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, c.product, c.w, c.x, c.y, c.y, preference, kCandidates, found->data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) return Failed("no algorithm", a, status);
  found->resize(static_cast<size_t>(count));
  return "";
}

std::string Matmul::Choose(const MatmulArgs& a, cudaStream_t stream, Choice* c) {
  if (a.deterministic) return ChooseForAllLengths(a, c);
  std::vector<cublasLtMatmulHeuristicResult_t> found;
  if (std::string failed = Candidates(a, *c, &found); !failed.empty()) return failed;
  c->algorithm = found[0].algo;

  // Which is fastest cannot be predicted where a product is bound by reading the weights once; for
  // long products of odd lengths the first choice is good enough. Trials write to scratch: an
  // accumulating one would add to y.
  if (a.n > kMeasuredRows && a.n % kMeasuredRows != 0) return "";
  void* y = nullptr;
  const size_t bytes = static_cast<size_t>(a.n) * static_cast<size_t>(a.rows) * (a.wide ? 4 : 2);
  if (cudaMalloc(&y, bytes) != cudaSuccess) {
    cudaGetLastError();
    return "";  // no room to try: the library's first choice
  }
  cudaMemsetAsync(y, 0, bytes, stream);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  const float one = 1, beta = a.accumulate ? 1.0f : 0.0f;
  float best = 0;
  for (const cublasLtMatmulHeuristicResult_t& candidate : found) {
    const auto run = [&] {
      return cublasLtMatmul(handle_, c->product, &one, a.w, c->w, a.x, c->x, &beta, y, c->y, y,
                            c->y, &candidate.algo, workspace_, kWorkspace, stream);
    };
    if (run() != CUBLAS_STATUS_SUCCESS) continue;
    cudaEventRecord(begin, stream);
    for (int r = 0; r < kRepetitions; ++r) run();
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (best == 0 || ms < best) {
      best = ms;
      c->algorithm = candidate.algo;
    }
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaFree(y);
  return "";
}

// A tile's sums run over the width in one order, whatever the number of tiles, unless the width is
// split among several: so one algorithm without a split gives a row the same bits at all lengths.
std::string Matmul::ChooseForAllLengths(const MatmulArgs& a, Choice* c) {
  const Key key = {a.rows, a.cols, 0, a.wide, a.accumulate, true};
  if (!for_all_lengths_.contains(key)) {
    MatmulArgs usual = a;
    usual.n = kUsualLength;
    std::vector<cublasLtMatmulHeuristicResult_t> found;
    if (std::string failed = Candidates(usual, Choice(usual), &found); !failed.empty())
      return failed;
    const auto whole = [](const cublasLtMatmulHeuristicResult_t& candidate) {
      int32_t splits = 1;
      size_t written = 0;
      cublasLtMatmulAlgoConfigGetAttribute(&candidate.algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                                           &splits, sizeof splits, &written);
      return splits <= 1;
    };
    const auto chosen = std::find_if(found.begin(), found.end(), whole);
    if (chosen == found.end())
      return Failed("no algorithm that sums in one piece", a, CUBLAS_STATUS_NOT_SUPPORTED);
    for_all_lengths_[key] = chosen->algo;
  }
  c->algorithm = for_all_lengths_[key];
  cublasLtMatmulHeuristicResult_t result;
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle_, c->product, c->w, c->x, c->y, c->y, &c->algorithm, &result);
  return status == CUBLAS_STATUS_SUCCESS ? "" : Failed("the algorithm for all lengths", a, status);
}

std::string Matmul::Run(const MatmulArgs& a, cudaStream_t stream) {
  if (a.n == 0) return "";
  std::unique_ptr<Choice>& choice =
      choices_[{a.rows, a.cols, a.n, a.wide, a.accumulate, a.deterministic}];
  if (choice == nullptr) {
    auto made = std::make_unique<Choice>(a);
    if (std::string failed = Choose(a, stream, made.get()); !failed.empty()) return failed;
    choice = std::move(made);
  }
  const float one = 1, beta = a.accumulate ? 1.0f : 0.0f;
  const cublasStatus_t status =
      cublasLtMatmul(handle_, choice->product, &one, a.w, choice->w, a.x, choice->x, &beta, a.y,
                     choice->y, a.y, choice->y, &choice->algorithm, workspace_, kWorkspace, stream);
  return status == CUBLAS_STATUS_SUCCESS ? "" : Failed("launch", a, status);
}

}  // namespace lserve::cuda
