#include "kernels/cpu/isa.h"

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cpu/cpu_ops.h"

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

// A set of kernels and whether this processor runs it. Even what fills the table is compiled for
// the set, so only a set that runs is filled.
struct Isa {
  const char* name;
  const char* needs;
  bool runs;
  const char* shown;
  void (*linear)(CpuKernels*);
  void (*attention)(CpuKernels*);
};

// Best first.
std::vector<Isa> Isas() {
  std::vector<Isa> list;
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
                      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
  list.push_back({"avx512", "AVX-512 with VNNI, VBMI and BF16", avx512, "avx512-bf16-vnni",
                  isa_avx512::FillLinear, isa_avx512::FillAttention});
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  list.push_back(
      {"avx2", "AVX2 and FMA", avx2, "avx2", isa_avx2::FillLinear, isa_avx2::FillAttention});
#endif
  list.push_back({"base", "", true, "base", isa_base::FillLinear, isa_base::FillAttention});
  return list;
}

// The set that LSERVE_CPU_ISA names, else the best one that runs.
Result<CpuKernels> Choose() {
  const char* wanted = std::getenv("LSERVE_CPU_ISA");
  const bool any = wanted == nullptr || *wanted == '\0';
  std::string names;
  for (const Isa& isa : Isas()) {
    if (any ? isa.runs : wanted == std::string_view(isa.name)) {
      if (!isa.runs)
        return Unsupported("LSERVE_CPU_ISA={}: this processor has no {}", isa.name, isa.needs);
      CpuKernels table{};
      table.isa = isa.shown;
      isa.linear(&table);
      isa.attention(&table);
      return table;
    }
    names += std::string(names.empty() ? "" : ", ") + isa.name;
  }
  return InvalidArgument("LSERVE_CPU_ISA={}: expected one of {}", wanted, names);
}

const Result<CpuKernels>& Chosen() {
  static const Result<CpuKernels> chosen = Choose();
  return chosen;
}

}  // namespace

Status CheckCpuIsa() { return Chosen().status(); }

const CpuKernels& BestKernels() {
  CHECK(Chosen().ok());  // MakeOps has seen to it
  return *Chosen();
}

}  // namespace lserve
