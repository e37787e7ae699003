// Barriers in shared memory (mbarrier) and named barriers of Hopper kernels, one instruction a
// function. Addresses are those of SharedAddress(). Producers wait with a limit: a schedule that
// deadlocks becomes a launch error instead of a hung device.
#pragma once

#include <cstdint>

namespace lserve::cuda::ptx {

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ inline void BarrierInit(uint32_t bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine.
__device__ inline void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void BarrierArrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

// Arrives and lets the phase end only after `bytes` more have been copied.
__device__ inline void BarrierArriveExpect(uint32_t bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
               : "memory");
}

__device__ inline bool BarrierTryWait(uint32_t bar, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.b32 %0, 1, 0, p;\n"
      "}"
      : "=r"(done)
      : "r"(bar), "r"(parity)
      : "memory");
  return done != 0;
}

// Until the phase of that parity has ended.
__device__ inline void BarrierWait(uint32_t bar, uint32_t parity) {
  while (!BarrierTryWait(bar, parity)) {
  }
}

// The same, but traps after seconds. Not for consumer warpgroups: a trap in their branch keeps the
// compiler from using the registers that setmaxnreg gives them.
__device__ inline void BarrierWaitOrTrap(uint32_t bar, uint32_t parity) {
  for (int tries = 0; !BarrierTryWait(bar, parity); ++tries)
    if (tries == 1 << 22) __trap();
}

// Named barriers of a CTA: `threads` counts those that wait and those that only arrive.
__device__ inline void NamedBarrierSync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void NamedBarrierArrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Registers of the warpgroup's threads from here on (a multiple of 8).
template <int kRegisters>
__device__ inline void RaiseRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void LowerRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace lserve::cuda::ptx
