#include "kernels/device.h"

#include <dlfcn.h>
#include <unistd.h>

#include <filesystem>

#include "kernels/device_abi.h"

namespace lserve {
namespace {

// Beside the program, in the library folder beside the program's, or where the system looks.
void* LoadLibrary(std::string* error) {
  std::vector<std::string> places;
  if (const char* named = std::getenv("LSERVE_CUDA_LIBRARY")) {
    places = {named};
  } else {
    std::error_code ignored;
    const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
    const std::filesystem::path folder = program.parent_path();
    for (const char* relative : {".", "../lib", "../kernels/cuda", "../../src/kernels/cuda"})
      places.push_back((folder / relative / kDeviceLibrary).lexically_normal().string());
    places.push_back(kDeviceLibrary);
  }
  for (const std::string& place : places) {
    if (place.find('/') != std::string::npos && access(place.c_str(), R_OK) != 0) {
      *error = place + ": no such file";
      continue;
    }
    if (void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    *error = dlerror();
    if (place.find('/') != std::string::npos) return nullptr;  // it is there and does not load
  }
  return nullptr;
}

}  // namespace

Result<std::unique_ptr<Device>> OpenDevice(int index) {
  std::string error;
  void* library = LoadLibrary(&error);  // stays loaded
  if (library == nullptr)
    return Unavailable("backend cuda: {} (--backend cpu works without it)", error);
  const auto abi = reinterpret_cast<int (*)()>(dlsym(library, "lserve_cuda_abi"));
  const auto open =
      reinterpret_cast<Device* (*)(int, char*, size_t)>(dlsym(library, "lserve_cuda_open"));
  if (abi == nullptr || open == nullptr || abi() != kDeviceAbi)
    return Unavailable("backend cuda: {} is of another build of lserve", kDeviceLibrary);
  char text[512] = "";
  std::unique_ptr<Device> device(open(index, text, sizeof text));
  if (device == nullptr)
    return Unavailable("backend cuda: {} (--backend cpu works without it)", text);
  return device;
}

}  // namespace lserve
