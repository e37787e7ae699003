// Deterministic products on a GPU: a row's bits depend on the row alone, whatever the number of
// rows, for every kind of output. (Values: linear_test.)
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/device.h"

namespace lserve {
namespace {

constexpr int kRows = 384, kCols = 576, kMost = 1300;

class DeviceMatmul : public ::testing::Test {
 protected:
  void SetUp() override {
    Result<std::unique_ptr<Device>> opened = OpenDevice(0);
    if (!opened.ok()) GTEST_SKIP() << opened.status().message();
    device_ = std::move(*opened);
    w_ = Block(device_.get(), size_t{kRows} * kCols * 2);
    x_ = Block(device_.get(), size_t{kMost} * kCols * 2);
    y_ = Block(device_.get(), size_t{kMost} * kRows * 4);
    out_ = Block(device_.get(), size_t{kMost} * kRows * 4);
    device_->FillNormal(w_.as<uint16_t>(), int64_t{kRows} * kCols, 0.1f, 1);
    device_->FillNormal(x_.as<uint16_t>(), int64_t{kMost} * kCols, 1, 2);
  }

  // Bytes of the first n rows of the product of rows [from, from + n).
  std::vector<std::byte> Product(int from, int n, bool wide, bool swiglu) {
    device_->Fill(y_.data(), std::byte{0}, y_.size());
    const MatmulArgs args{w_.as<uint16_t>(),
                          kRows,
                          kCols,
                          x_.as<uint16_t>() + int64_t{from} * kCols,
                          n,
                          y_.data(),
                          wide,
                          wide,
                          true};
    if (swiglu)
      device_->SwiGlu(args, out_.as<uint16_t>());
    else
      device_->Matmul(args);
    std::vector<std::byte> bytes(static_cast<size_t>(n) * RowBytes(wide, swiglu));
    device_->CopyOut(bytes.data(), swiglu ? out_.data() : y_.data(), bytes.size());
    const Status status = device_->Synchronize();
    EXPECT_TRUE(status.ok()) << status.ToString();
    return bytes;
  }
  static size_t RowBytes(bool wide, bool swiglu) {
    return size_t{kRows} * (wide ? 4 : 2) / (swiglu ? 2 : 1);
  }

  std::unique_ptr<Device> device_;
  Block w_, x_, y_, out_;
};

TEST_F(DeviceMatmul, DeterministicRowsAreIndependent) {
  for (const auto& [wide, swiglu] : {std::pair(false, false), {true, false}, {false, true}}) {
    const std::vector<std::byte> all = Product(0, kMost, wide, swiglu);
    for (int n : {1, 2, 7, 8, 9, 31, 64, 100, 128, 257, 512, 1000}) {
      const int from = kMost - n;
      const std::vector<std::byte> part = Product(from, n, wide, swiglu);
      EXPECT_EQ(std::memcmp(part.data(), all.data() + from * RowBytes(wide, swiglu), part.size()),
                0)
          << n << " rows, "
          << (swiglu ? "swiglu"
              : wide ? "float"
                     : "bf16");
    }
  }
}

}  // namespace
}  // namespace lserve
