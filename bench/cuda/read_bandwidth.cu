#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "read_bandwidth.h"

namespace lserve::bench {
namespace {

constexpr int kThreads = 512, kBatch = 8;  // loads of 16 bytes that a thread has under way

__global__ void __launch_bounds__(kThreads) Read(const uint4* data, int64_t count, uint32_t* sum) {
  uint32_t bits = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * kBatch;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads * kBatch + threadIdx.x; i < count;
       i += stride) {
    uint4 x[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) x[k] = __ldcs(data + i + k * kThreads);
#pragma unroll
    for (int k = 0; k < kBatch; ++k) bits ^= x[k].x ^ x[k].y ^ x[k].z ^ x[k].w;
  }
  if (bits == 0x12345678) atomicAdd(sum, bits);  // so that the loads are not left out
}

}  // namespace

double ReadBandwidth() {
  const int64_t count = int64_t{4} << 30 >> 4;  // a multiple of what a thread block takes
  const auto ok = [](cudaError_t error) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "ReadBandwidth: %s\n", cudaGetErrorString(error));
    std::exit(1);
  };
  uint4* data = nullptr;
  cudaDeviceProp prop;
  cudaEvent_t begin, end;
  ok(cudaMalloc(&data, static_cast<size_t>(count) * sizeof(uint4)));
  ok(cudaMemset(data, 1, static_cast<size_t>(count) * sizeof(uint4)));
  ok(cudaGetDeviceProperties(&prop, 0));
  ok(cudaEventCreate(&begin));
  ok(cudaEventCreate(&end));
  float best = 1e9f;
  for (int i = 0; i < 8; ++i) {
    ok(cudaEventRecord(begin));
    Read<<<prop.multiProcessorCount * 4, kThreads>>>(data, count,
                                                     reinterpret_cast<uint32_t*>(data));
    ok(cudaEventRecord(end));
    ok(cudaEventSynchronize(end));
    float ms = 0;
    ok(cudaEventElapsedTime(&ms, begin, end));
    best = std::min(best, ms);
  }
  ok(cudaEventDestroy(begin));
  ok(cudaEventDestroy(end));
  ok(cudaFree(data));
  return static_cast<double>(count) * sizeof(uint4) / (best * 1e-3);
}

}  // namespace lserve::bench
