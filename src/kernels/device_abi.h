// The border between the program and the CUDA library. Both are built from one tree; the number
// catches a library of another build. Change it with device.h and cuda/args.h.
#pragma once

namespace lserve {

inline constexpr int kDeviceAbi = 8;
inline constexpr const char* kDeviceLibrary = "liblserve_cuda.so";

}  // namespace lserve
