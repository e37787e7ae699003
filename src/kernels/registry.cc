#include "kernels/cpu/cpu_ops.h"
#include "kernels/ops.h"
#include "kernels/ref/ref_ops.h"

namespace lserve {

Result<std::unique_ptr<Ops>> MakeOps(const std::string& backend, ThreadPool* pool) {
  if (backend == "cpu") return MakeCpuOps(pool);
  if (backend == "ref") return MakeRefOps(pool);
  return InvalidArgument("--backend {}: expected cpu or ref", backend);
}

}  // namespace lserve
