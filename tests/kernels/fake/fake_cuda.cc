// A CUDA library as OpenDevice meets it, for a machine without a GPU: it opens no device and says
// why, in the words of FAKE_CUDA_ERROR; with FAKE_CUDA_ABI it is of another build.
#include <cstdlib>
#include <cstring>

#include "kernels/device_abi.h"

extern "C" void* lserve_cuda_open(int, char* error, size_t size) {
  const char* text = std::getenv("FAKE_CUDA_ERROR");
  std::strncpy(error, text ? text : "", size - 1);
  error[size - 1] = 0;
  return nullptr;
}
extern "C" int lserve_cuda_abi() {
  const char* abi = std::getenv("FAKE_CUDA_ABI");
  return abi ? std::atoi(abi) : lserve::kDeviceAbi;
}
