#include "quant/block_formats.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "core/mapped_file.h"

namespace lserve {
namespace {

// Values of random blocks as the gguf Python package computes them
// (tests/golden/make_block_goldens.py).
TEST(BlockFormats, MatchesTheGgufPackage) {
  Result<std::string> golden = ReadFile(LSERVE_SOURCE_DIR "/tests/golden/blocks.bin");
  ASSERT_TRUE(golden.ok()) << golden.status().ToString();
  size_t at = 0;
  const auto take = [&](void* to, size_t bytes) {
    ASSERT_LE(bytes, golden->size() - at);
    std::memcpy(to, golden->data() + at, bytes);
    at += bytes;
  };
  int types = 0;
  while (at < golden->size()) {
    char name[9] = {};
    uint32_t elements = 0, bytes = 0;
    take(name, 8);
    take(&elements, 4);
    take(&bytes, 4);
    std::vector<std::byte> row(bytes + 1);
    std::vector<float> expected(elements), values(elements);
    take(row.data() + 1, bytes);  // one byte off: no alignment is promised
    take(expected.data(), elements * sizeof(float));
    bool known = false;
    for (int t = 0; t <= static_cast<int>(DType::kQ6_K); ++t) {
      const DType type = static_cast<DType>(t);
      if (Info(type).name != name) continue;
      known = true;
      ASSERT_EQ(RowBytes(type, elements), bytes) << name;
      DequantizeRow(type, row.data() + 1, elements, values.data());
      for (uint32_t i = 0; i < elements; ++i) {
        ASSERT_NEAR(values[i], expected[i], 1e-6 * std::abs(expected[i]) + 1e-7)
            << name << " element " << i;
      }
    }
    EXPECT_TRUE(known) << name;
    ++types;
  }
  EXPECT_EQ(types, 10);
}

TEST(BlockFormats, F32IsCopied) {
  const float row[3] = {1.5f, -0.0f, 3e38f};
  float out[3];
  DequantizeRow(DType::kF32, reinterpret_cast<const std::byte*>(row), 3, out);
  EXPECT_EQ(0, std::memcmp(row, out, sizeof(row)));
}

TEST(BlockFormats, SubScalesTakeSixBitsEach) {
  // Packed by the rule: the low four bits of the last four apart, their high two on top of the
  // first eight.
  const int scale[8] = {1, 2, 3, 4, 21, 38, 55, 63}, min[8] = {33, 34, 35, 36, 60, 43, 26, 9};
  uint8_t packed[12];
  for (int i = 0; i < 4; ++i) {
    packed[i] = static_cast<uint8_t>(scale[i] | scale[i + 4] >> 4 << 6);
    packed[i + 4] = static_cast<uint8_t>(min[i] | min[i + 4] >> 4 << 6);
    packed[i + 8] = static_cast<uint8_t>((scale[i + 4] & 15) | (min[i + 4] & 15) << 4);
  }
  for (int s = 0; s < 8; ++s) {
    EXPECT_EQ(UnpackSubScale(packed, s).scale, scale[s]) << s;
    EXPECT_EQ(UnpackSubScale(packed, s).min, min[s]) << s;
  }
}

}  // namespace
}  // namespace lserve
