#include "kernels/cpu/packed_weight.h"

#include <cstring>

#include "quant/block_formats.h"

namespace lserve {
namespace {

QuantFormat FormatOf(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return {4, 1, false, false, 8};
    case DType::kQ4_1:
      return {4, 1, false, true, 0};
    case DType::kQ5_0:
      return {5, 1, false, false, 16};
    case DType::kQ5_1:
      return {5, 1, false, true, 0};
    case DType::kQ8_0:
      return {8, 1, false, false, 128};
    case DType::kQ4_K:
      return {4, 1, true, true, 0};
    case DType::kQ5_K:
      return {5, 1, true, true, 0};
    case DType::kQ6_K:
      return {6, 2, true, false, 32};
    default:
      return {};
  }
}

int CodeBytes(int bits) { return 512 * bits / 8; }

size_t PanelBytes(const QuantFormat& f, int cols) {
  const size_t blocks = static_cast<size_t>(cols) / 32;
  const size_t scales =
      f.super ? (f.has_min ? 32 : 16 * static_cast<size_t>(f.groups)) : (f.has_min ? 64 : 32);
  const size_t super = f.super ? blocks / 8 * (f.has_min ? 64 : 32) : 0;
  return super + blocks * (scales + static_cast<size_t>(CodeBytes(f.bits)));
}

// One block of 32 inputs of one output in neutral form.
struct Block32 {
  uint8_t codes[32];
  uint16_t d = 0, m = 0;      // f16 bits: of the block, or of its super-block
  uint8_t scale[2] = {0, 0};  // K formats
  uint8_t min = 0;
};

uint16_t Half(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return bits;
}

// Block `b` (32 inputs) of a stored row. The stored layouts are described in
// quant/block_formats.cc.
Block32 ReadBlock(DType type, const uint8_t* row, int b) {
  Block32 out;
  const auto simple = [&](int header, bool fifth, bool has_min) {
    const uint8_t* p = row + static_cast<int64_t>(b) * Info(type).block_bytes;
    out.d = Half(p);
    if (has_min) out.m = Half(p + 2);
    uint32_t high = 0;
    if (fifth) std::memcpy(&high, p + (has_min ? 4 : 2), 4);
    for (int i = 0; i < 16; ++i) {
      out.codes[i] = static_cast<uint8_t>((p[header + i] & 15) | (((high >> i) & 1) << 4));
      out.codes[i + 16] =
          static_cast<uint8_t>((p[header + i] >> 4) | (((high >> (i + 16)) & 1) << 4));
    }
  };
  switch (type) {
    case DType::kQ4_0:
      simple(2, false, false);
      break;
    case DType::kQ4_1:
      simple(4, false, true);
      break;
    case DType::kQ5_0:
      simple(6, true, false);
      break;
    case DType::kQ5_1:
      simple(8, true, true);
      break;
    case DType::kQ8_0: {
      const uint8_t* p = row + static_cast<int64_t>(b) * 34;
      out.d = Half(p);
      for (int i = 0; i < 32; ++i) out.codes[i] = static_cast<uint8_t>(p[2 + i] ^ 0x80);
      break;
    }
    case DType::kQ4_K:
    case DType::kQ5_K: {
      const bool five = type == DType::kQ5_K;
      const uint8_t* p = row + static_cast<int64_t>(b / 8) * Info(type).block_bytes;
      const int j = b % 8;
      out.d = Half(p);
      out.m = Half(p + 2);
      const SubScale sub = UnpackSubScale(p + 4, j);
      out.scale[0] = static_cast<uint8_t>(sub.scale);
      out.min = static_cast<uint8_t>(sub.min);
      const uint8_t* high = p + 16;
      const uint8_t* low = p + (five ? 48 : 16) + (j / 2) * 32;
      for (int i = 0; i < 32; ++i) {
        uint8_t code = j % 2 ? low[i] >> 4 : low[i] & 15;
        if (five) code |= static_cast<uint8_t>(((high[i] >> j) & 1) << 4);
        out.codes[i] = code;
      }
      break;
    }
    case DType::kQ6_K: {
      const uint8_t* p = row + static_cast<int64_t>(b / 8) * 210;
      const int j = b % 8, half = j / 4, quarter = j % 4;  // 128 elements a half, 32 a quarter
      const uint8_t* low = p + 64 * half + 32 * (quarter % 2);
      const uint8_t* high = p + 128 + 32 * half;
      for (int i = 0; i < 32; ++i) {
        const uint8_t nibble = quarter < 2 ? low[i] & 15 : low[i] >> 4;
        out.codes[i] = static_cast<uint8_t>(nibble | (((high[i] >> (2 * quarter)) & 3) << 4));
      }
      out.scale[0] = p[192 + 8 * half + 2 * quarter];
      out.scale[1] = p[192 + 8 * half + 2 * quarter + 1];
      out.d = Half(p + 208);
      break;
    }
    default:
      CHECK(false);
  }
  return out;
}

uint8_t* PackCodes(int bits, const uint8_t* codes, uint8_t* out) {
  if (bits == 8) {
    std::memcpy(out, codes, 512);
    return out + 512;
  }
  for (int i = 0; i < 256; ++i)
    out[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 256] << 4));
  out += 256;
  if (bits == 5)
    for (int v = 0; v < 8; ++v, out += 8) {
      uint64_t word = 0;
      for (int i = 0; i < 64; ++i) word |= static_cast<uint64_t>((codes[64 * v + i] >> 4) & 1) << i;
      std::memcpy(out, &word, 8);
    }
  if (bits == 6) {
    for (int i = 0; i < 128; ++i) {
      out[i] = 0;
      for (int part = 0; part < 4; ++part)
        out[i] |= static_cast<uint8_t>((codes[128 * part + i] >> 4) << (2 * part));
    }
    out += 128;
  }
  return out;
}

void PackQuantPanel(const TensorView& t, const QuantFormat& f, int first_row, uint8_t* out) {
  const auto halves = [&](const Block32* blocks, uint16_t Block32::*field) {
    for (int r = 0; r < 16; ++r, out += 2) std::memcpy(out, &(blocks[r].*field), 2);
  };
  Block32 blocks[16];
  for (int b = 0; b < t.cols / 32; ++b) {
    uint8_t codes[512] = {};
    for (int r = 0; r < 16; ++r) {
      blocks[r] =
          first_row + r < t.rows
              ? ReadBlock(t.dtype, reinterpret_cast<const uint8_t*>(t.Row(first_row + r)), b)
              : Block32{};
      if (first_row + r >= t.rows) std::memset(blocks[r].codes, 0, 32);
      for (int i = 0; i < 32; ++i) codes[(i / 4) * 64 + r * 4 + i % 4] = blocks[r].codes[i];
    }
    if (!f.super || b % 8 == 0) {
      halves(blocks, &Block32::d);
      if (f.has_min) halves(blocks, &Block32::m);
    }
    if (f.super) {
      for (int g = 0; g < f.groups; ++g) {
        for (int r = 0; r < 16; ++r) *out++ = blocks[r].scale[g];
        if (f.has_min)
          for (int r = 0; r < 16; ++r) *out++ = blocks[r].min;
      }
    }
    out = PackCodes(f.bits, codes, out);
  }
}

void PackFloatPanel(const TensorView& t, DType type, int first_row, float* row_scratch,
                    uint8_t* out) {
  const int64_t cols = t.cols;
  for (int r = 0; r < 64 && first_row + r < t.rows; ++r) {
    const std::byte* row = t.Row(first_row + r);
    if (type == DType::kBF16) {
      uint16_t* panel = reinterpret_cast<uint16_t*>(out);
      if (t.dtype == DType::kBF16) {
        for (int64_t c = 0; c < cols; ++c)
          std::memcpy(&panel[((c / 2) * 64 + r) * 2 + c % 2], row + 2 * c, 2);
      } else {
        DequantizeRow(t.dtype, row, cols, row_scratch);
        for (int64_t c = 0; c < cols; ++c)
          panel[((c / 2) * 64 + r) * 2 + c % 2] = ToBf16(row_scratch[c]);
      }
    } else if (type == DType::kF16) {
      for (int64_t c = 0; c < cols; ++c)
        std::memcpy(reinterpret_cast<uint16_t*>(out) + c * 64 + r, row + 2 * c, 2);
    } else {
      for (int64_t c = 0; c < cols; ++c)
        std::memcpy(reinterpret_cast<float*>(out) + c * 64 + r, row + 4 * c, 4);
    }
  }
}

}  // namespace

PackedWeight::PackedWeight(const TensorView& tensor, bool to_bf16, ThreadPool* pool)
    : rows_(static_cast<int>(tensor.rows)),
      cols_(static_cast<int>(tensor.cols)),
      dtype_(to_bf16 ? DType::kBF16 : tensor.dtype) {
  if (quantised()) {
    format_ = FormatOf(dtype_);
    panel_bytes_ = PanelBytes(format_, cols_);
  } else {
    const size_t inputs = static_cast<size_t>(dtype_ == DType::kBF16 ? (cols_ + 1) / 2 * 2 : cols_);
    panel_bytes_ = inputs * 64 * static_cast<size_t>(Info(dtype_).block_bytes);
  }
  // A word beyond the end: kernels read whole vectors.
  buffer_ = Buffer(panel_bytes_ * static_cast<size_t>(panels()) + 64);
  std::vector<std::vector<float>> scratch(static_cast<size_t>(pool->size()),
                                          std::vector<float>(static_cast<size_t>(cols_)));
  pool->ParallelFor(panels(), [&](int64_t p, int thread) {
    uint8_t* out = buffer_.as<uint8_t>() + static_cast<size_t>(p) * panel_bytes_;
    const int first = static_cast<int>(p) * panel_rows();
    if (quantised())
      PackQuantPanel(tensor, format_, first, out);
    else
      PackFloatPanel(tensor, dtype_, first, scratch[static_cast<size_t>(thread)].data(), out);
  });
}

void PackedWeight::UnpackRow(int row, float* out) const {
  const uint8_t* p = panel(row / panel_rows());
  const int r = row % panel_rows();
  if (quantised()) {
    BestKernels().unpack_quant(format_, p, cols_, r, out);
    return;
  }
  for (int c = 0; c < cols_; ++c) {
    if (dtype_ == DType::kF32) {
      out[c] = reinterpret_cast<const float*>(p)[c * 64 + r];
    } else if (dtype_ == DType::kF16) {
      out[c] = FromF16(reinterpret_cast<const uint16_t*>(p)[c * 64 + r]);
    } else {
      out[c] = FromBf16(reinterpret_cast<const uint16_t*>(p)[((c / 2) * 64 + r) * 2 + c % 2]);
    }
  }
}

}  // namespace lserve
