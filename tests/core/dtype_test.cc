// The 16-bit conversions against the formulas of IEEE 754, all 65536 patterns each way.
#include "core/dtype.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <limits>
#include <random>

namespace lserve {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The value of a small float with the given field widths, exactly.
double ValueOf(uint32_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t fraction = bits & ((1u << fraction_bits) - 1);
  const int exponent = static_cast<int>(bits >> fraction_bits & ((1u << exponent_bits) - 1));
  double magnitude;
  if (exponent == (1 << exponent_bits) - 1)
    magnitude = fraction ? std::nan("") : static_cast<double>(kInf);
  else if (exponent == 0)
    magnitude = std::ldexp(fraction, 1 - bias - fraction_bits);
  else
    magnitude = std::ldexp(fraction + (1u << fraction_bits), exponent - bias - fraction_bits);
  return bits >> (exponent_bits + fraction_bits) ? -magnitude : magnitude;
}
double F16Value(uint32_t bits) { return ValueOf(bits, 5, 10); }
double Bf16Value(uint32_t bits) { return ValueOf(bits, 8, 7); }

template <typename From, typename To, typename Value>
void AllPatterns(From from, To to, Value value) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float f = from(static_cast<uint16_t>(bits));
    const double expected = value(bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(f)) << bits;
      ASSERT_TRUE(std::isnan(value(to(f)))) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(f), expected) << bits;
      ASSERT_EQ(std::signbit(f), std::signbit(expected)) << bits;
      ASSERT_EQ(to(f), bits);
    }
  }
}

// Between each pair of neighbours: below, at, and above the middle.
template <typename To, typename Value>
void Nearest(To to, Value value, uint32_t infinity) {
  for (uint32_t sign : {0u, 0x8000u}) {
    for (uint32_t low = 0; low + 1 < infinity; ++low) {
      const double a = value(low | sign), b = value((low + 1) | sign);
      const double exact = (a + b) / 2;
      const float middle = static_cast<float>(exact);
      if (middle != exact || middle == 0) continue;  // below float's own subnormals
      const uint32_t even = low % 2 == 0 ? low : low + 1;
      ASSERT_EQ(to(middle), even | sign) << low;
      const float towards_a = std::nextafter(middle, static_cast<float>(a));
      const float towards_b = std::nextafter(middle, static_cast<float>(b));
      ASSERT_EQ(to(towards_a), low | sign) << low;
      ASSERT_EQ(to(towards_b), (low + 1) | sign) << low;
    }
  }
}

TEST(F16, AllPatterns) { AllPatterns(FromF16, ToF16, F16Value); }
TEST(Bf16, AllPatterns) { AllPatterns(FromBf16, ToBf16, Bf16Value); }
TEST(F16, RoundsToNearestEven) { Nearest(ToF16, F16Value, 0x7c00); }
TEST(Bf16, RoundsToNearestEven) { Nearest(ToBf16, Bf16Value, 0x7f80); }

TEST(F16, OverflowAndUnderflow) {
  EXPECT_EQ(ToF16(65504.0f), 0x7bff);
  EXPECT_EQ(ToF16(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(ToF16(65536.0f), 0x7c00);
  EXPECT_EQ(ToF16(-FLT_MAX), 0xfc00);
  EXPECT_EQ(ToF16(kInf), 0x7c00);
  EXPECT_EQ(ToF16(0x1p-25f), 0x0000);  // half of the smallest: to even
  EXPECT_EQ(ToF16(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(ToF16(-FLT_MIN), 0x8000);
  EXPECT_TRUE(std::isnan(FromF16(ToF16(kNan))));
}

TEST(Bf16, OverflowAndNan) {
  EXPECT_EQ(ToBf16(FLT_MAX), 0x7f80);
  EXPECT_EQ(ToBf16(kInf), 0x7f80);
  // NaNs whose upper half alone would read as infinity.
  EXPECT_TRUE(std::isnan(FromBf16(ToBf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(FromBf16(ToBf16(std::bit_cast<float>(0xffffffffu)))));
}

void ExpectTightBounds(float x) {
  const float up = FromBf16(ToBf16Up(x)), down = FromBf16(ToBf16Down(x));
  ASSERT_GE(up, x);
  ASSERT_LE(down, x);
  if (FromBf16(ToBf16(x)) == x) {
    ASSERT_EQ(up, x);
    ASSERT_EQ(down, x);
    return;
  }
  // Neighbours: nothing representable lies between them.
  ASSERT_LT(down, x);
  const uint16_t down_bits = ToBf16(down);
  const uint16_t next = down_bits == 0x8000 || down_bits == 0 ? 0x0001
                        : down_bits & 0x8000                  ? down_bits - 1
                                                              : down_bits + 1;
  ASSERT_EQ(FromBf16(next), up) << x;
}

TEST(Bf16, OutwardRoundingIsTightForAllNeighbours) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float x = FromBf16(static_cast<uint16_t>(bits));
    if (std::isnan(x)) continue;
    ExpectTightBounds(x);
    if (std::isinf(x)) continue;
    ExpectTightBounds(std::nextafter(x, kInf));
    ExpectTightBounds(std::nextafter(x, -kInf));
  }
}

TEST(Bf16, OutwardRoundingOfRandomPatterns) {
  std::mt19937 random(1);
  for (int i = 0; i < 1000000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isnan(x)) ExpectTightBounds(x);
  }
}

TEST(Bf16, OutwardRoundingAtTheEnds) {
  EXPECT_EQ(ToBf16Up(FLT_MAX), 0x7f80);
  EXPECT_EQ(ToBf16Down(FLT_MAX), 0x7f7f);
  EXPECT_EQ(ToBf16Down(-FLT_MAX), 0xff80);
  EXPECT_EQ(ToBf16Up(-FLT_MAX), 0xff7f);
  EXPECT_EQ(ToBf16Up(kInf), 0x7f80);
  EXPECT_EQ(ToBf16Down(-kInf), 0xff80);
  EXPECT_EQ(ToBf16Up(std::numeric_limits<float>::denorm_min()), 0x0001);
}

TEST(DType, RowBytesAndNames) {
  EXPECT_EQ(RowBytes(DType::kF32, 7), 28);
  EXPECT_EQ(RowBytes(DType::kF16, 7), 14);
  EXPECT_EQ(RowBytes(DType::kBF16, 7), 14);
  EXPECT_EQ(RowBytes(DType::kQ4_0, 64), 36);
  EXPECT_EQ(RowBytes(DType::kQ4_1, 64), 40);
  EXPECT_EQ(RowBytes(DType::kQ5_0, 64), 44);
  EXPECT_EQ(RowBytes(DType::kQ5_1, 64), 48);
  EXPECT_EQ(RowBytes(DType::kQ8_0, 64), 68);
  EXPECT_EQ(RowBytes(DType::kQ4_K, 512), 288);
  EXPECT_EQ(RowBytes(DType::kQ5_K, 512), 352);
  EXPECT_EQ(RowBytes(DType::kQ6_K, 512), 420);
  EXPECT_EQ(Info(DType::kQ6_K).name, "Q6_K");
  EXPECT_TRUE(IsFloat(DType::kBF16));
  EXPECT_FALSE(IsFloat(DType::kQ4_0));
}

}  // namespace
}  // namespace lserve
