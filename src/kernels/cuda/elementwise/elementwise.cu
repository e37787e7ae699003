#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/launch_dependent.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/bulk_copy.cuh"

namespace lserve::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float BlockSum(float x) {
  __shared__ float partial[kThreads / 32];
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < kThreads / 32; ++w) sum += partial[w];
  return sum;
}

__global__ void EmbedKernel(const uint16_t* table, const int32_t* ids, int cols, float* out) {
  ptx::GridTrigger();
  const int64_t row = blockIdx.x;
  const int32_t id = ids[row];
  for (int c = threadIdx.x; c < cols; c += kThreads)
    out[row * cols + c] = id < 0 ? 0.0f : Bf16ToFloat(table[static_cast<int64_t>(id) * cols + c]);
}

template <bool kWide>
__global__ void RmsNormKernel(const float* x, const int32_t* from, const float* weight, float eps,
                              int cols, void* out) {
  ptx::GridTrigger();
  ptx::GridWait();
  const int64_t row = blockIdx.x;
  const float4* in = reinterpret_cast<const float4*>(x + (from ? from[row] : row) * cols);
  const float4* w = reinterpret_cast<const float4*>(weight);
  float sum = 0;
  for (int i = threadIdx.x; i < cols / 4; i += kThreads) {
    const float4 v = in[i];
    sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float scale = rsqrtf(BlockSum(sum) / static_cast<float>(cols) + eps);
  for (int i = threadIdx.x; i < cols / 4; i += kThreads) {
    const float4 v = in[i], g = w[i];
    const float4 y = {v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z, v.w * scale * g.w};
    if (kWide)
      static_cast<float4*>(out)[row * (cols / 4) + i] = y;
    else
      static_cast<uint2*>(out)[row * (cols / 4) + i] = {PackBf16(y.x, y.y), PackBf16(y.z, y.w)};
  }
}

__device__ float SiluMul(float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; }

__global__ void SiluMulKernel(const uint16_t* gate_up, int cols, uint16_t* out) {
  const int64_t row = blockIdx.y;
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= cols / 8) return;
  const uint4 gate = reinterpret_cast<const uint4*>(gate_up + row * 2 * cols)[i];
  const uint4 up = reinterpret_cast<const uint4*>(gate_up + row * 2 * cols + cols)[i];
  const auto both = [](uint32_t g, uint32_t u) {
    const float2 a = UnpackBf16(g), b = UnpackBf16(u);
    return PackBf16(SiluMul(a.x, b.x), SiluMul(a.y, b.y));
  };
  reinterpret_cast<uint4*>(out + row * cols)[i] = {both(gate.x, up.x), both(gate.y, up.y),
                                                   both(gate.z, up.z), both(gate.w, up.w)};
}

__global__ void SiluMulWideKernel(const float* gate, const float* up, int64_t count, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

struct Candidate {
  float value;
  int index;
};
__device__ Candidate Better(Candidate a, Candidate b) {
  if (b.index < 0) return a;
  if (a.index < 0 || b.value > a.value || (b.value == a.value && b.index < a.index)) return b;
  return a;
}

constexpr int kArgmaxParts = 32;

// The best of a block's candidates, in thread 0.
__device__ Candidate BestOfBlock(Candidate own) {
  __shared__ Candidate all[kThreads];
  all[threadIdx.x] = own;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) all[threadIdx.x] = Better(all[threadIdx.x], all[threadIdx.x + half]);
  }
  return all[0];
}

// Part p of a row has the columns [p, p + 1) * cols / kArgmaxParts.
__global__ void ArgmaxPartsKernel(const float* logits, int cols, Candidate* parts) {
  ptx::GridTrigger();
  ptx::GridWait();
  const float* row = logits + static_cast<int64_t>(blockIdx.y) * cols;
  const int begin = static_cast<int>(static_cast<int64_t>(cols) * blockIdx.x / kArgmaxParts);
  const int end = static_cast<int>(static_cast<int64_t>(cols) * (blockIdx.x + 1) / kArgmaxParts);
  Candidate own{0, -1};
  for (int c = begin + threadIdx.x; c < end; c += kThreads)
    if (const float x = row[c]; !isnan(x)) own = Better(own, {x, c});
  own = BestOfBlock(own);
  if (threadIdx.x == 0) parts[blockIdx.y * kArgmaxParts + blockIdx.x] = own;
}

__global__ void ArgmaxKernel(const Candidate* parts, int32_t* best) {
  ptx::GridWait();
  Candidate own{0, -1};
  if (threadIdx.x < kArgmaxParts) own = parts[blockIdx.x * kArgmaxParts + threadIdx.x];
  own = BestOfBlock(own);
  if (threadIdx.x == 0) best[blockIdx.x] = max(own.index, 0);
}

// splitmix64: one independent number for each counter.
__device__ uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

__global__ void FillNormalKernel(uint16_t* out, int64_t count, float deviation, uint64_t seed) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += stride) {
    const uint64_t bits = Mix(seed ^ static_cast<uint64_t>(i));
    const float u = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;
    const float v = static_cast<float>((bits >> 16) & 0xffffff) * 0x1p-24f;
    out[i] = FloatToBf16(deviation * sqrtf(-2 * logf(u)) * cospif(2 * v));
  }
}

__global__ void ToBf16Kernel(const float* from, int64_t count, uint16_t* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[i] = FloatToBf16(from[i]);
}
__global__ void ToFloatKernel(const uint16_t* from, int64_t count, float* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[i] = Bf16ToFloat(from[i]);
}

bool Programmatic() { return Facts().capability >= 90; }

unsigned Blocks(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

}  // namespace

cudaError_t LaunchEmbed(const uint16_t* table, const int32_t* ids, int rows, int cols, float* out,
                        cudaStream_t stream) {
  if (rows > 0) EmbedKernel<<<rows, kThreads, 0, stream>>>(table, ids, cols, out);
  return cudaGetLastError();
}

cudaError_t LaunchRmsNorm(const float* x, const int32_t* from, const float* weight, float eps,
                          int rows, int cols, void* out, bool wide, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return LaunchDependent(wide ? RmsNormKernel<true> : RmsNormKernel<false>,
                         dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, Programmatic(), x,
                         from, weight, eps, cols, out);
}

cudaError_t LaunchSiluMul(const uint16_t* gate_up, int rows, int cols, uint16_t* out,
                          cudaStream_t stream) {
  if (rows > 0)
    SiluMulKernel<<<dim3(Blocks(cols / 8), rows), kThreads, 0, stream>>>(gate_up, cols, out);
  return cudaGetLastError();
}

cudaError_t LaunchSiluMulWide(const float* gate, const float* up, int64_t count, float* out,
                              cudaStream_t stream) {
  if (count > 0) SiluMulWideKernel<<<Blocks(count), kThreads, 0, stream>>>(gate, up, count, out);
  return cudaGetLastError();
}

size_t ArgmaxScratch(int rows) {
  return static_cast<size_t>(rows) * kArgmaxParts * sizeof(Candidate);
}

cudaError_t LaunchArgmax(const float* logits, int rows, int cols, std::byte* scratch, int32_t* best,
                         cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (rows > kMostArgmaxRows) return cudaErrorInvalidValue;
  Candidate* parts = reinterpret_cast<Candidate*>(scratch);
  const unsigned count = static_cast<unsigned>(rows);
  const cudaError_t e = LaunchDependent(ArgmaxPartsKernel, dim3(kArgmaxParts, count), kThreads, 0,
                                        stream, Programmatic(), logits, cols, parts);
  if (e != cudaSuccess) return e;
  return LaunchDependent(ArgmaxKernel, dim3(count), kThreads, 0, stream, Programmatic(),
                         static_cast<const Candidate*>(parts), best);
}

cudaError_t LaunchFillNormal(uint16_t* out, int64_t count, float deviation, uint64_t seed,
                             cudaStream_t stream) {
  FillNormalKernel<<<2048, kThreads, 0, stream>>>(out, count, deviation, seed);
  return cudaGetLastError();
}

cudaError_t LaunchToBf16(const float* from, int64_t count, uint16_t* to, cudaStream_t stream) {
  if (count > 0) ToBf16Kernel<<<Blocks(count), kThreads, 0, stream>>>(from, count, to);
  return cudaGetLastError();
}
cudaError_t LaunchToFloat(const uint16_t* from, int64_t count, float* to, cudaStream_t stream) {
  if (count > 0) ToFloatKernel<<<Blocks(count), kThreads, 0, stream>>>(from, count, to);
  return cudaGetLastError();
}

}  // namespace lserve::cuda
