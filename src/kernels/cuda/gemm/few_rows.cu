// A block of threads makes 16 outputs at a time (tile), its warps sharing the sum: warp w has every
// eighth run of 128 inputs. A fragment's element order along the sum is free as long as both
// operands agree: lane (g, t) reads 16 bytes of weight row g and 16 of row g + 8 at input 8 t of a
// run of 32, 16 bytes of activation row g at the same place, and these are the operands of two
// products m16n8k16. Weights go from memory to registers once; activations are read again for every
// tile, from the first-level cache.
//
// Bytes: the weight. In flight on an SM: 16 warps x 128 inputs x 16 rows x 2 bytes = 64 KiB, what
// 3 TB/s over 132 SMs need at 2.8 us. The first run of the first tile is loaded before the wait for
// the kernel that makes the activations: weights do not depend on it.
#include <algorithm>

#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/gemm/few_rows.h"
#include "kernels/cuda/launch_dependent.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/bulk_copy.cuh"
#include "kernels/cuda/ptx/load.cuh"
#include "kernels/cuda/ptx/warp_mma.cuh"

namespace lserve::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kSteps = 4;  // of 32 inputs: a run
constexpr int kRun = 32 * kSteps;
constexpr int kBlocksPerSm = 2;

enum class Epilogue { kBf16, kFloat, kAdd, kSwiGlu };

struct Args {
  const uint16_t *w, *x;
  void* y;
  int rows, cols, n, tiles;
};

// The weights of one run of one tile.
struct Run {
  uint4 low[kSteps], high[kSteps];
};

template <Epilogue kEpilogue>
__device__ __forceinline__ void LoadRun(const Args& a, int tile, int run, Run* out) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int first = kEpilogue == Epilogue::kSwiGlu ? 8 * tile + g : 16 * tile + g;
  const int second = kEpilogue == Epilogue::kSwiGlu ? a.rows / 2 + 8 * tile + g : first + 8;
  const uint16_t* low = a.w + static_cast<int64_t>(first) * a.cols;
  const uint16_t* high = a.w + static_cast<int64_t>(second) * a.cols;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int k = run * kRun + 32 * s + 8 * t;
    const bool inside = tile < a.tiles && k < a.cols;
    out->low[s] = inside ? ptx::LoadOnce(low + k) : uint4{};
    out->high[s] = inside ? ptx::LoadOnce(high + k) : uint4{};
  }
}

__device__ __forceinline__ void Multiply(const Args& a, int run, const Run& w, float (&c)[4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int k = run * kRun + 32 * s + 8 * t;
    uint4 x{};
    if (g < a.n && k < a.cols)
      x = *reinterpret_cast<const uint4*>(a.x + static_cast<int64_t>(g) * a.cols + k);
    ptx::MmaBf16(c, {w.low[s].x, w.high[s].x, w.low[s].y, w.high[s].y}, x.x, x.y);
    ptx::MmaBf16(c, {w.low[s].z, w.high[s].z, w.low[s].w, w.high[s].w}, x.z, x.w);
  }
}

// Thread (token, output) of a tile, from the warps' sums [warp][output][token].
template <Epilogue kEpilogue>
__device__ __forceinline__ void Finish(const Args& a, int tile, const float* sums) {
  const int token = threadIdx.x / 16, output = threadIdx.x % 16;
  if (threadIdx.x >= 128 || token >= a.n) return;
  const auto sum = [&](int o) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w * 128 + o * 8 + token];
    return total;
  };
  if (kEpilogue == Epilogue::kSwiGlu) {
    if (output >= 8) return;
    const float gate = sum(output), up = sum(output + 8);
    static_cast<uint16_t*>(a.y)[static_cast<int64_t>(token) * (a.rows / 2) + 8 * tile + output] =
        FloatToBf16(gate / (1.0f + __expf(-gate)) * up);
    return;
  }
  const int64_t at = static_cast<int64_t>(token) * a.rows + 16 * tile + output;
  const float y = sum(output);
  if (kEpilogue == Epilogue::kBf16)
    static_cast<uint16_t*>(a.y)[at] = FloatToBf16(y);
  else if (kEpilogue == Epilogue::kFloat)
    static_cast<float*>(a.y)[at] = y;
  else
    static_cast<float*>(a.y)[at] += y;
}

template <Epilogue kEpilogue>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm) FewRowsKernel(const Args a) {
  __shared__ float sums[2][kWarps * 128];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int runs = (a.cols + kRun - 1) / kRun;  // warp w has runs w, w + 8, ...
  ptx::GridTrigger();
  int tile = blockIdx.x, run = warp;
  Run now, next;
  LoadRun<kEpilogue>(a, tile, run, &now);
  ptx::GridWait();
  for (int buffer = 0; tile < a.tiles; buffer ^= 1) {
    float c[4] = {};
    for (;;) {
      // The run after this one, of this tile or the first of the next.
      const bool last = run + kWarps >= runs;
      const int next_tile = last ? tile + static_cast<int>(gridDim.x) : tile;
      const int next_run = last ? warp : run + kWarps;
      LoadRun<kEpilogue>(a, next_tile, next_run, &next);
      Multiply(a, run, now, c);
      now = next;
      run = next_run;
      if (last) break;
    }
    float* own = sums[buffer] + warp * 128;
    own[g * 8 + 2 * t] = c[0];
    own[g * 8 + 2 * t + 1] = c[1];
    own[(g + 8) * 8 + 2 * t] = c[2];
    own[(g + 8) * 8 + 2 * t + 1] = c[3];
    __syncthreads();
    Finish<kEpilogue>(a, tile, sums[buffer]);
    tile += static_cast<int>(gridDim.x);
  }
}

}  // namespace

bool SupportsFewRows(const MatmulArgs& args, bool swiglu) {
  return !args.deterministic && args.n >= 1 && args.n <= kFewRows && args.cols % 32 == 0 &&
         args.rows % (swiglu ? 32 : 16) == 0;
}

cudaError_t LaunchFewRows(const MatmulArgs& args, bool swiglu, cudaStream_t stream) {
  const DeviceFacts& device = Facts();
  const Args a{args.w, args.x, args.y, args.rows, args.cols, args.n, args.rows / 16};
  const dim3 grid(static_cast<unsigned>(std::min(a.tiles, kBlocksPerSm * device.processors)));
  const bool programmatic = device.capability >= 90;
  const auto launch = [&](auto kernel) {
    return LaunchDependent(kernel, grid, kThreads, 0, stream, programmatic, a);
  };
  if (swiglu) return launch(FewRowsKernel<Epilogue::kSwiGlu>);
  if (args.accumulate) return launch(FewRowsKernel<Epilogue::kAdd>);
  if (args.wide) return launch(FewRowsKernel<Epilogue::kFloat>);
  return launch(FewRowsKernel<Epilogue::kBf16>);
}

}  // namespace lserve::cuda
