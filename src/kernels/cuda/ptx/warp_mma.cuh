// Instructions of one warp on matrix fragments. Layouts are the PTX manual's: with g = lane / 4 and
// t = lane % 4, of m16n8k16
//   A: a[0] (row g, columns 2t, 2t + 1), a[1] (row g + 8), a[2], a[3] the same at columns + 8
//   B: b[0] (rows 2t, 2t + 1, column g), b[1] the same at rows + 8
//   C: c[0], c[1] (row g, columns 2t, 2t + 1), c[2], c[3] (row g + 8).
#pragma once

#include <cstdint>

namespace lserve::cuda::ptx {

// c += a b, bf16 with float sums.
__device__ __forceinline__ void MmaBf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Transposes an 8 x 8 matrix of 16-bit elements: lane holds row lane / 4, columns 2 (lane % 4) and
// the next, of the argument and of the result.
__device__ __forceinline__ uint32_t Transpose(uint32_t row_pair) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(out) : "r"(row_pair));
  return out;
}

// 2^x to about 2 ulp; 0 for -infinity.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Barrier `id` (1 .. 15) among `threads` threads, a multiple of 32.
__device__ __forceinline__ void NamedBarrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace lserve::cuda::ptx
