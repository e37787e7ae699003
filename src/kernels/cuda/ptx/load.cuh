// Loads from global memory with a word on what becomes of the line.
#pragma once

#include <cuda_runtime.h>

namespace lserve::cuda::ptx {

// 16 bytes that are read once: they pass the first-level cache by. REQUIRES: 16-byte alignment, and
// memory that nobody writes while the kernel runs.
__device__ __forceinline__ uint4 LoadOnce(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

}  // namespace lserve::cuda::ptx
