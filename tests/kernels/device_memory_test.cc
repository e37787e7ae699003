// A device's memory: many pieces at once, in and out. Skipped without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/device.h"

namespace lserve {
namespace {

TEST(DeviceMemory, PiecesComeBackAsTheyWere) {
  Result<std::unique_ptr<Device>> opened = OpenDevice(0);
  if (!opened.ok()) GTEST_SKIP() << opened.status().message();
  Device* device = opened->get();
  std::mt19937 random(7);
  constexpr size_t kBytes = size_t{40} << 20;
  const Block block(device, kBytes);
  for (size_t most : {size_t{1000}, size_t{200000}, size_t{9} << 20}) {
    // Pieces in any order, with gaps; more than the driver's buffer holds.
    std::vector<Memory::Piece> pieces;
    size_t at = 0, all = 0;
    while (true) {
      const size_t gap = random() % 300, size = 1 + random() % most;
      if (at + gap + size > kBytes || pieces.size() == 300) break;
      pieces.push_back({block.data() + at + gap, size});
      at += gap + size;
      all += size;
    }
    std::shuffle(pieces.begin(), pieces.end(), random);
    std::vector<std::byte> want(all), got(all);
    for (std::byte& b : want) b = static_cast<std::byte>(random());
    device->CopyIn(pieces, want.data());
    device->CopyOut(got.data(), pieces);
    ASSERT_TRUE(device->Synchronize().ok());
    EXPECT_EQ(got, want) << most;
    // Each by itself says the same.
    size_t offset = 0;
    for (const Memory::Piece& piece : pieces) {
      std::vector<std::byte> one(piece.bytes);
      device->CopyOut(one.data(), piece.data, piece.bytes);
      EXPECT_TRUE(std::equal(one.begin(), one.end(), want.begin() + static_cast<int64_t>(offset)));
      offset += piece.bytes;
    }
    // Through page-locked memory, without waiting in between: out, other bytes in, and back.
    std::byte* locked = device->AllocateHost(all);
    ASSERT_NE(locked, nullptr);
    device->CopyOut(locked, pieces);
    for (const Memory::Piece& piece : pieces) device->Fill(piece.data, std::byte{7}, piece.bytes);
    device->CopyIn(pieces, locked);
    device->CopyOut(got.data(), pieces);
    EXPECT_EQ(got, want) << most;
    EXPECT_TRUE(std::equal(want.begin(), want.end(), locked));
    device->FreeHost(locked, all);
  }
}

}  // namespace
}  // namespace lserve
