// What a user reads when the GPU cannot be used: one line that names the need and what works.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "kernels/device.h"

namespace lserve {
namespace {

class OpenDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { Set("LSERVE_CUDA_LIBRARY", LSERVE_FAKE_CUDA); }
  void TearDown() override {
    for (const char* name : {"LSERVE_CUDA_LIBRARY", "FAKE_CUDA_ERROR", "FAKE_CUDA_ABI"})
      unsetenv(name);
  }
  static void Set(const char* name, const char* value) { setenv(name, value, 1); }
  static std::string Error() {
    const Result<std::unique_ptr<Device>> device = OpenDevice(0);
    EXPECT_FALSE(device.ok());
    const std::string text = device.ok() ? "" : device.status().message();
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  }
};

TEST_F(OpenDeviceTest, WhatTheLibrarySaysAndWhatWorks) {
  for (const char* reason : {"NVIDIA Tesla T4 has compute capability 7.5; 8.0 is the least",
                             "no usable NVIDIA driver: insufficient (CUDA 13 needs driver 580)"}) {
    Set("FAKE_CUDA_ERROR", reason);
    EXPECT_EQ(Error(),
              std::string("backend cuda: ") + reason + " (--backend cpu works without it)");
  }
}

TEST_F(OpenDeviceTest, ALibraryOfAnotherBuild) {
  Set("FAKE_CUDA_ABI", "1");
  EXPECT_EQ(Error(), "backend cuda: liblserve_cuda.so is of another build of lserve");
}

TEST_F(OpenDeviceTest, NoLibrary) {
  Set("LSERVE_CUDA_LIBRARY", "/nowhere/liblserve_cuda.so");
  EXPECT_EQ(
      Error(),
      "backend cuda: /nowhere/liblserve_cuda.so: no such file (--backend cpu works without it)");
}

}  // namespace
}  // namespace lserve
