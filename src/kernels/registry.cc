#include "kernels/cpu/cpu_ops.h"
#include "kernels/device_ops.h"
#include "kernels/ops.h"
#include "kernels/ref/ref_ops.h"

namespace lserve {

Result<std::unique_ptr<Ops>> MakeOps(const std::string& backend, ThreadPool* pool) {
  if (backend == "cpu") {
    if (Status s = CheckCpuIsa(); !s.ok()) return s;
    return MakeCpuOps(pool);
  }
  if (backend == "ref") return MakeRefOps(pool);
  if (backend == "cuda") {
    Result<std::unique_ptr<Device>> device = OpenDevice(0);
    if (!device.ok()) return device.status();
    return MakeDeviceOps(std::move(*device));
  }
  return InvalidArgument("--backend {}: expected cpu, cuda or ref", backend);
}

}  // namespace lserve
