// The Ops of a Device over matrices and pages in host memory: every call copies in, runs the
// device's kernels and copies out. For tests, which hold every backend to one table of cases; the
// engine runs model/device_model.h, which keeps everything on the device.
#pragma once

#include <memory>

#include "kernels/device.h"
#include "kernels/ops.h"

namespace lserve {

std::unique_ptr<Ops> MakeDeviceOps(std::unique_ptr<Device> device);

}  // namespace lserve
