// Bulk tensor copies of Hopper (TMA) from global to shared memory. A coordinate outside of the
// tensor reads as zero and costs no traffic. One thread issues; the copied bytes count at `bar`.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace lserve::cuda::ptx {

__device__ inline void TmaLoad(uint32_t to, const CUtensorMap* map, uint32_t bar, int c0, int c1,
                               int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

__device__ inline void TmaLoad(uint32_t to, const CUtensorMap* map, uint32_t bar, int c0, int c1,
                               int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// Orders this thread's ordinary accesses to shared memory before later ones of the copy engine and
// the tensor cores.
__device__ inline void AsyncProxyFence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace lserve::cuda::ptx
