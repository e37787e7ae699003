#include "kernels/cpu/isa.h"

namespace lserve {

// One pair an instruction set, from the files compiled with LSERVE_ISA=name.
namespace isa_base {
void FillLinear(CpuKernels* table);
void FillAttention(CpuKernels* table);
}  // namespace isa_base
#if defined(__x86_64__)
namespace isa_avx2 {
void FillLinear(CpuKernels* table);
void FillAttention(CpuKernels* table);
}  // namespace isa_avx2
namespace isa_avx512 {
void FillLinear(CpuKernels* table);
void FillAttention(CpuKernels* table);
}  // namespace isa_avx512
#endif

namespace {

CpuKernels Make(const char* isa, void (*linear)(CpuKernels*), void (*attention)(CpuKernels*)) {
  CpuKernels table{};
  table.isa = isa;
  linear(&table);
  attention(&table);
  return table;
}

CpuKernels Choose() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512bf16"))
    return Make("avx512-bf16-vnni", isa_avx512::FillLinear, isa_avx512::FillAttention);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return Make("avx2", isa_avx2::FillLinear, isa_avx2::FillAttention);
#endif
  return Make("base", isa_base::FillLinear, isa_base::FillAttention);
}

}  // namespace

const CpuKernels& BestKernels() {
  static const CpuKernels table = Choose();
  return table;
}

}  // namespace lserve
