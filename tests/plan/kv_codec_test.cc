// The codec against its header: bytes of a slice written out by hand, the formula of quantisation,
// error bounds, and inputs that no model should make.
#include "plan/kv_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "core/dtype.h"

namespace lserve {
namespace {

constexpr KvType kTypes[] = {KvType::kKv32, KvType::kKv16, KvType::kKv8, KvType::kKv4};

using Bytes = std::vector<std::byte>;

TEST(KvCodec, SizesAndOffsets) {
  struct Case {
    KvType k, v;
    int dim;
    size_t k_scale, v_offset, v_scale, slice;
    const char* name;
  };
  const Case cases[] = {
      {KvType::kKv32, KvType::kKv32, 64, 16384, 16384, 32768, 32768, "kv32"},
      {KvType::kKv16, KvType::kKv16, 64, 8192, 8192, 16384, 16384, "kv16"},
      {KvType::kKv8, KvType::kKv8, 64, 4096, 4352, 8448, 8704, "kv8"},
      {KvType::kKv4, KvType::kKv4, 64, 2048, 2304, 4352, 4608, "kv4"},
      {KvType::kKv8, KvType::kKv4, 64, 4096, 4352, 6400, 6656, "k8v4"},
      {KvType::kKv4, KvType::kKv4, 128, 4096, 4352, 8448, 8704, "kv4"},
      {KvType::kKv16, KvType::kKv8, 128, 16384, 16384, 24576, 24832, "k16v8"},
  };
  for (const Case& c : cases) {
    const KvCodec codec(c.k, c.v, c.dim);
    EXPECT_EQ(codec.k_scale_offset(), c.k_scale) << c.name;
    EXPECT_EQ(codec.v_offset(), c.v_offset) << c.name;
    EXPECT_EQ(codec.v_scale_offset(), c.v_scale) << c.name;
    EXPECT_EQ(codec.slice_bytes(), c.slice) << c.name;
    EXPECT_EQ(codec.name(), c.name);
  }
  for (KvType k : kTypes)
    for (KvType v : kTypes)
      for (int dim = 16; dim <= 256; dim += 2)
        EXPECT_EQ(KvCodec(k, v, dim).slice_bytes() % 64, 0u) << KvCodec(k, v, dim).name() << dim;
}

TEST(KvCodec, ElementOrderIsAPermutation) {
  for (int dim : {2, 6, 64, 128}) {
    const KvCodec codec(KvType::kKv16, KvType::kKv16, dim);
    std::set<int> k, v;
    for (int t = 0; t < kBlockTokens; ++t)
      for (int c = 0; c < dim; ++c) {
        k.insert(codec.KIndex(t, c));
        v.insert(codec.VIndex(t, c));
      }
    for (const std::set<int>& all : {k, v}) {
      EXPECT_EQ(all.size(), static_cast<size_t>(kBlockTokens * dim));
      EXPECT_EQ(*all.begin(), 0);
      EXPECT_EQ(*all.rbegin(), kBlockTokens * dim - 1);
    }
  }
}

// `changed` over a slice that was `fill` everywhere.
void ExpectBytes(const Bytes& slice, int fill, const std::map<size_t, int>& changed) {
  for (size_t i = 0; i < slice.size(); ++i) {
    const auto it = changed.find(i);
    ASSERT_EQ(static_cast<int>(slice[i]), it == changed.end() ? fill : it->second) << "byte " << i;
  }
}

// Token 3 of a slice of 4 channels. K elements 6, 7, 134, 135; V elements 9, 11, 13, 15.
TEST(KvCodec, GoldenBytesKv8) {
  const KvCodec codec(KvType::kKv8, KvType::kKv8, 4);
  ASSERT_EQ(codec.slice_bytes(), 1024u);
  Bytes slice(1024, std::byte{0xa5});
  // Codes 0, 255, 1, 128 with scale 2^-7 (f16 0x2000) and minimum -1 (0xbc00).
  const float k[] = {-1.0f, -1 + 255 / 128.0f, -1 + 1 / 128.0f, 0.0f};
  codec.EncodeK(k, 3, slice.data());
  std::map<size_t, int> bytes = {{6, 0},      {7, 255},    {134, 1},    {135, 128},
                                 {262, 0x00}, {263, 0x20}, {390, 0x00}, {391, 0xbc}};
  ExpectBytes(slice, 0xa5, bytes);
  // Codes 17, 0, 255, 3 with scale 2 (0x4000) and minimum 5 (0x4500).
  const float v[] = {39, 5, 515, 11};
  codec.EncodeV(v, 3, slice.data());
  bytes.insert({{512 + 9, 17},
                {512 + 11, 0},
                {512 + 13, 255},
                {512 + 15, 3},
                {768 + 6, 0x00},
                {768 + 7, 0x40},
                {896 + 6, 0x00},
                {896 + 7, 0x45}});
  ExpectBytes(slice, 0xa5, bytes);
  float out[4];
  codec.DecodeK(slice.data(), 3, out);
  EXPECT_TRUE(std::equal(k, k + 4, out));
  codec.DecodeV(slice.data(), 3, out);
  EXPECT_TRUE(std::equal(v, v + 4, out));
}

TEST(KvCodec, GoldenBytesKv4) {
  const KvCodec codec(KvType::kKv4, KvType::kKv4, 4);
  ASSERT_EQ(codec.slice_bytes(), 768u);
  Bytes slice(768, std::byte{0xa5});
  // Codes 0, 15, 7, 8 with scale 1/2 (0x3800) and minimum -3 (0xc200).
  const float x[] = {-3, 4.5, 0.5, 1};
  codec.EncodeK(x, 3, slice.data());
  codec.EncodeV(x, 3, slice.data());
  // The two channels of a K byte are this token's; in V it has the high nibbles, token 2 the low.
  ExpectBytes(slice, 0xa5,
              {{3, 0xf0},
               {67, 0x87},
               {134, 0x00},
               {135, 0x38},
               {262, 0x00},
               {263, 0xc2},
               {388, 0x05},
               {389, 0xf5},
               {390, 0x75},
               {391, 0x85},
               {518, 0x00},
               {519, 0x38},
               {646, 0x00},
               {647, 0xc2}});
  float out[4];
  codec.DecodeV(slice.data(), 3, out);
  EXPECT_TRUE(std::equal(x, x + 4, out));
}

TEST(KvCodec, GoldenBytesKv16AndKv32) {
  const KvCodec codec(KvType::kKv16, KvType::kKv32, 4);
  ASSERT_EQ(codec.v_offset(), 512u);
  Bytes slice(codec.slice_bytes(), std::byte{0xa5});
  // bfloat16 to nearest even: 1 + 2^-8 is a tie and goes to 1.0, 1 + 3 * 2^-8 to 1 + 2^-6.
  const float k[] = {1 + 0x1p-8f, 1 + 0x3p-8f, -2, 0};
  codec.EncodeK(k, 3, slice.data());
  std::map<size_t, int> bytes = {{12, 0x80},  {13, 0x3f},  {14, 0x82},  {15, 0x3f},
                                 {268, 0x00}, {269, 0xc0}, {270, 0x00}, {271, 0x00}};
  ExpectBytes(slice, 0xa5, bytes);
  const float v[] = {1, -2, 0.5f, 0};  // float 3f800000, c0000000, 3f000000, 0
  codec.EncodeV(v, 3, slice.data());
  for (size_t byte : {0, 1, 2, 3})
    for (size_t i : {9, 11, 13, 15}) bytes[512 + 4 * i + byte] = 0;
  bytes[512 + 38] = 0x80, bytes[512 + 39] = 0x3f;
  bytes[512 + 47] = 0xc0;
  bytes[512 + 55] = 0x3f;
  ExpectBytes(slice, 0xa5, bytes);
}

float ScaleOf(const Bytes& slice, size_t offset, int token) {
  uint16_t bits;
  std::memcpy(&bits, slice.data() + offset + 2 * static_cast<size_t>(token), 2);
  return FromF16(bits);
}

// The step between f16 numbers around x.
double HalfStep(double x) {
  const double a = std::max(std::abs(x), 0x1p-14);
  return std::ldexp(1.0, std::ilogb(a) - 10);
}

struct Distribution {
  const char* name;
  double offset, deviation;
};

TEST(KvCodec, QuantisationErrorIsAtMostHalfAScale) {
  const Distribution kinds[] = {
      {"normal", 0, 1},       {"tiny", 0, 1e-6},      {"huge", 0, 9000},   {"key bias", 300, 2},
      {"offset", 1000, 0.05}, {"below", -777, 0.001}, {"constant", 0.3, 0}};
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  for (KvType type : {KvType::kKv8, KvType::kKv4}) {
    for (int dim : {2, 64, 80, 128}) {
      const KvCodec codec(type, type, dim);
      const int levels = (1 << KvBits(type)) - 1;
      Bytes slice(codec.slice_bytes(), std::byte{0xff});
      std::vector<float> x(static_cast<size_t>(dim)), k(x.size()), v(x.size());
      for (const Distribution& kind : kinds) {
        for (int token = 0; token < kBlockTokens; ++token) {
          for (float& value : x)
            value = static_cast<float>(kind.offset + kind.deviation * normal(random));
          codec.EncodeK(x.data(), token, slice.data());
          codec.EncodeV(x.data(), token, slice.data());
          codec.DecodeK(slice.data(), token, k.data());
          codec.DecodeV(slice.data(), token, v.data());
          ASSERT_EQ(k, v) << "one formula for both sides";
          const auto [low, high] = std::minmax_element(x.begin(), x.end());
          const double s = ScaleOf(slice, codec.k_scale_offset(), token);
          const double m = ScaleOf(slice, codec.k_scale_offset() + KvCodec::kMinAfterScale, token);
          const double rounding = 0x1p-22 * (std::abs(*low) + std::abs(*high));
          ASSERT_LE(m, *low) << kind.name;
          ASSERT_GT(m, *low - 1.001 * HalfStep(*low)) << kind.name;
          if (*low == *high) {
            ASSERT_EQ(s, 0) << kind.name;
            for (float value : k) ASSERT_EQ(value, static_cast<float>(m)) << kind.name;
            continue;
          }
          ASSERT_GE(m + levels * s, *high - rounding) << kind.name;
          const double exact_scale = (*high - m) / levels;
          ASSERT_LE(s, exact_scale + 1.001 * HalfStep(exact_scale)) << kind.name;
          for (size_t c = 0; c < x.size(); ++c)
            ASSERT_NEAR(k[c], x[c], s / 2 + rounding) << kind.name << " channel " << c;
        }
      }
    }
  }
}

TEST(KvCodec, SixteenAndThirtyTwoBitsRoundTrip) {
  std::mt19937_64 random(2);
  std::normal_distribution<float> normal(0, 3);
  const int dim = 96;
  for (KvType type : {KvType::kKv16, KvType::kKv32}) {
    const KvCodec codec(type, type, dim);
    Bytes slice(codec.slice_bytes());
    std::vector<std::vector<float>> k(kBlockTokens), v(kBlockTokens);
    for (int t = 0; t < kBlockTokens; ++t) {
      for (auto* row : {&k[static_cast<size_t>(t)], &v[static_cast<size_t>(t)]}) {
        for (int c = 0; c < dim; ++c) row->push_back(normal(random));
      }
      codec.EncodeK(k[static_cast<size_t>(t)].data(), t, slice.data());
      codec.EncodeV(v[static_cast<size_t>(t)].data(), t, slice.data());
    }
    std::vector<float> out(static_cast<size_t>(dim));
    for (int t = 0; t < kBlockTokens; ++t) {
      const auto expect = [&](const std::vector<float>& x) {
        for (size_t c = 0; c < x.size(); ++c)
          ASSERT_EQ(out[c], type == KvType::kKv32 ? x[c] : FromBf16(ToBf16(x[c])));
      };
      codec.DecodeK(slice.data(), t, out.data());
      expect(k[static_cast<size_t>(t)]);
      codec.DecodeV(slice.data(), t, out.data());
      expect(v[static_cast<size_t>(t)]);
    }
  }
}

// Writing tokens in any order, and again, gives the same slice: no token disturbs another.
TEST(KvCodec, TokensAreIndependent) {
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  for (KvType type : kTypes) {
    const int dim = 6;
    const KvCodec codec(type, type, dim);
    std::vector<float> x(static_cast<size_t>(kBlockTokens * dim));
    for (float& value : x) value = normal(random);
    Bytes ascending(codec.slice_bytes(), std::byte{0}),
        shuffled(codec.slice_bytes(), std::byte{0xff});
    std::vector<int> order(kBlockTokens);
    for (int t = 0; t < kBlockTokens; ++t) order[static_cast<size_t>(t)] = t;
    const auto write = [&](Bytes* slice) {
      for (int t : order) {
        codec.EncodeK(x.data() + t * dim, t, slice->data());
        codec.EncodeV(x.data() + t * dim, t, slice->data());
      }
    };
    write(&ascending);
    std::shuffle(order.begin(), order.end(), random);
    write(&shuffled);
    EXPECT_EQ(ascending, shuffled) << codec.name();
    write(&shuffled);
    EXPECT_EQ(ascending, shuffled) << codec.name();
  }
}

TEST(KvCodec, HostileValuesStayFiniteWhenQuantised) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const float rows[][4] = {{nan, nan, nan, nan},    {nan, 1, 2, 3},
                           {inf, -inf, 0, 1},       {1e30f, 0, 0, 0},
                           {-1e30f, 1e30f, 1, 2},   {65504, 65504, 65504, 65504},
                           {1e-30f, -1e-30f, 0, 0}, {-0.0f, 0.0f, 0, 0},
                           {inf, inf, inf, inf},    {1000.26f, 1000.3f, 1000.28f, 1000.27f}};
  for (KvType type : {KvType::kKv8, KvType::kKv4}) {
    const KvCodec codec(type, type, 4);
    Bytes slice(codec.slice_bytes(), std::byte{0xff});
    for (const auto& row : rows) {
      codec.EncodeK(row, 5, slice.data());
      EXPECT_GE(ScaleOf(slice, codec.k_scale_offset(), 5), 0) << row[0] << " " << row[1];
      float out[4];
      codec.DecodeK(slice.data(), 5, out);
      for (int c = 0; c < 4; ++c) {
        EXPECT_TRUE(std::isfinite(out[c])) << row[0] << " " << row[1];
        const float wanted = std::isnan(row[c]) ? 0 : std::clamp(row[c], -65504.0f, 65504.0f);
        EXPECT_NEAR(out[c], wanted, ScaleOf(slice, codec.k_scale_offset(), 5) * 0.5001 + 1e-7);
      }
    }
  }
}

TEST(ParseKvTypes, AcceptsNamesAndNamesWhatIsAccepted) {
  for (KvType k : kTypes)
    for (KvType v : kTypes) {
      const std::string name = KvCodec(k, v, 64).name();
      const Result<KvTypes> types = ParseKvTypes(name);
      ASSERT_TRUE(types.ok()) << name;
      EXPECT_EQ(types->k, k) << name;
      EXPECT_EQ(types->v, v) << name;
    }
  EXPECT_TRUE(ParseKvTypes("k8v8").ok());
  for (const char* bad : {"", "kv", "kv5", "kv64", "8", "k8", "v8", "k8v", "kv8v4", "kv08", "kv8 ",
                          "KV8", "k8v4v4", "f16"}) {
    const Result<KvTypes> types = ParseKvTypes(bad);
    ASSERT_FALSE(types.ok()) << bad;
    EXPECT_EQ(types.status().code(), Code::kInvalidArgument);
    EXPECT_NE(types.status().message().find("kv16"), std::string::npos);
  }
}

}  // namespace
}  // namespace lserve
