// What launchers ask of the device they run on, read once. Host code; any thread. One process uses
// one kind of device.
#pragma once

#include <cuda_runtime.h>

namespace lserve::cuda {

struct DeviceFacts {
  int processors = 1;    // multiprocessors
  int capability = 0;    // 90 for sm_90
  int shared_bytes = 0;  // of a thread block, at most
  int l2_bytes = 0;
};

inline const DeviceFacts& Facts() {
  static const DeviceFacts facts = [] {
    DeviceFacts f;
    int device = 0, major = 0, minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return f;
    cudaDeviceGetAttribute(&f.processors, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    cudaDeviceGetAttribute(&f.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaDeviceGetAttribute(&f.l2_bytes, cudaDevAttrL2CacheSize, device);
    f.capability = 10 * major + minor;
    return f;
  }();
  return facts;
}

}  // namespace lserve::cuda
