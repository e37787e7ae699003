// Asynchronous copies into shared memory that complete on mbarriers. From sm_90 on the copy engine
// moves boxes of a tensor map; before, threads copy 16 bytes at a time.
#pragma once

#include <cstdint>

namespace lserve::cuda::ptx {

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void BarrierInit(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;\n" ::"r"(SharedAddress(barrier)), "r"(arrivals)
               : "memory");
}
// Makes initialised barriers visible to the copy engine; before the block's barrier.
__device__ __forceinline__ void BarrierInitFence() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
#endif
}
__device__ __forceinline__ void BarrierArrive(uint64_t* barrier) {
  asm volatile("{\n .reg .b64 state;\n mbarrier.arrive.shared.b64 state, [%0];\n}\n" ::"r"(
                   SharedAddress(barrier))
               : "memory");
}
__device__ __forceinline__ bool BarrierTry(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      " selp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(SharedAddress(barrier)), "r"(parity)
      : "memory");
#else
  asm volatile(
      "{\n .reg .pred p;\n mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
      " selp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(SharedAddress(barrier)), "r"(parity)
      : "memory");
#endif
  return done != 0;
}
// Waits until the phase of `parity` is over.
__device__ __forceinline__ void BarrierWait(uint64_t* barrier, uint32_t parity) {
#ifdef LSERVE_CUDA_SPIN_LIMIT
  for (int64_t i = 0; !BarrierTry(barrier, parity); ++i)
    if (i > LSERVE_CUDA_SPIN_LIMIT) __trap();
#else
  while (!BarrierTry(barrier, parity)) {
  }
#endif
}

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void BarrierExpect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(SharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}
// The box at (column, row) of a two-dimensional map, read once and not again soon.
__device__ __forceinline__ void CopyBox(void* to, const void* map, int column, int row,
                                        uint64_t* barrier) {
  constexpr uint64_t kEvictFirst = 0x12f0000000000000;  // createpolicy.fractional.L2::evict_first
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;\n" ::"r"(SharedAddress(to)),
      "l"(map), "r"(column), "r"(row), "r"(SharedAddress(barrier)), "l"(kEvictFirst)
      : "memory");
}
// `bytes` in a row, a multiple of 16, both ends aligned to 16.
__device__ __forceinline__ void CopyBytes(void* to, const void* from, int bytes,
                                          uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
          "r"(SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}
__device__ __forceinline__ void PrefetchMap(const void* map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(map) : "memory");
}
#else
__device__ __forceinline__ void Copy16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(SharedAddress(to)), "l"(from)
               : "memory");
}
// Arrives once this thread's copies so far are complete.
__device__ __forceinline__ void ArriveAfterCopies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];\n" ::"r"(SharedAddress(barrier))
               : "memory");
}
#endif

// *p += x for the whole device; returns what was there. Orders what this thread (and, with a barrier
// in between, its block) did before it with what whoever adds next does after it.
__device__ __forceinline__ int AddAcqRel(int* p, int x) {
  int old;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], %2;\n"
               : "=r"(old)
               : "l"(p), "r"(x)
               : "memory");
  return old;
}

// Programmatic dependent launch: a kernel launched with it may start while its predecessor runs,
// and must not touch what that one writes before GridWait. GridTrigger lets the successor start.
__device__ __forceinline__ void GridWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}
__device__ __forceinline__ void GridTrigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

}  // namespace lserve::cuda::ptx
