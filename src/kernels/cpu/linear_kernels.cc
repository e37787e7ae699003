// Products of activations with packed weights, and the row-wise ops. Compiled once an instruction
// set (LSERVE_ISA names the table).
//
// Every row of the input gets the same sequence of operations whatever the number of rows in the
// call: a row's result is independent of its batch.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

namespace lserve {
namespace {

// ---- 8-bit activations x block-quantised weights
// -------------------------------------------------------------------------------------------------

// One block of 32 inputs x 16 outputs, unpacked: codes in groups of four inputs ([8][16][4]), one
// scale and offset for each group of 16 or 32 inputs.
struct Block {
  alignas(64) uint8_t codes[512];
  alignas(64) float scale[2][16];
  alignas(64) float offset[2][16];  // w = scale * code + offset
};
static_assert(sizeof(Block) * 16 == kQuantScratch, "isa.h knows the size");

inline void UnpackNibbles(const uint8_t* in, uint8_t* low, uint8_t* high, int bytes) {
  for (int i = 0; i < bytes; ++i) {
    low[i] = in[i] & 15;
    high[i] = in[i] >> 4;
  }
}

template <int kBits>
inline const uint8_t* UnpackCodes(const uint8_t* in, uint8_t* codes) {
  if constexpr (kBits == 8) {
    memcpy(codes, in, 512);
    return in + 512;
  } else {
    UnpackNibbles(in, codes, codes + 256, 256);
    in += 256;
    if constexpr (kBits == 5) {  // bit i of word v: fifth bit of code i of vector v
      for (int v = 0; v < 8; ++v) {
        uint64_t bits;
        memcpy(&bits, in + 8 * v, 8);
#if defined(__AVX512BW__)
        const __m512i c = _mm512_loadu_si512(codes + 64 * v);
        _mm512_storeu_si512(codes + 64 * v, _mm512_mask_add_epi8(c, bits, c, _mm512_set1_epi8(16)));
#else
        for (int i = 0; i < 64; ++i)
          codes[64 * v + i] |= static_cast<uint8_t>(((bits >> i) & 1) << 4);
#endif
      }
      in += 64;
    }
    if constexpr (kBits ==
                  6) {  // byte i of vector v: two high bits of vectors v, v + 2, v + 4, v + 6
      for (int part = 0; part < 4; ++part)
        for (int i = 0; i < 128; ++i)
          codes[128 * part + i] |= static_cast<uint8_t>(((in[i] >> (2 * part)) & 3) << 4);
      in += 128;
    }
    return in;
  }
}

inline VecF FromU8(const uint8_t* p) {
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  return __builtin_convertvector(Load<Bytes>(p), VecF);
}
inline VecF FromS8(const uint8_t* p) {
  typedef int8_t Bytes __attribute__((vector_size(16)));
  return __builtin_convertvector(Load<Bytes>(p), VecF);
}

// Reads a panel block by block; the layout is packed_weight.h's.
template <int kBits, int kGroups, bool kSuper, bool kMin>
struct PanelReader {
  const uint8_t* p;
  float offset_codes;
  int index = 0;
  VecF d, dmin;

  inline void Next(Block* block) {
    if constexpr (!kSuper) {
      const VecF scale = LoadF16(reinterpret_cast<const uint16_t*>(p));
      p += 32;
      Store(block->scale[0], scale);
      if constexpr (kMin) {
        Store(block->offset[0], LoadF16(reinterpret_cast<const uint16_t*>(p)));
        p += 32;
      } else {
        Store(block->offset[0], scale * Splat(-offset_codes));
      }
    } else {
      if (index++ % 8 == 0) {
        d = LoadF16(reinterpret_cast<const uint16_t*>(p));
        p += 32;
        if constexpr (kMin) {
          dmin = LoadF16(reinterpret_cast<const uint16_t*>(p));
          p += 32;
        }
      }
      for (int g = 0; g < kGroups; ++g) {
        if constexpr (kMin) {
          Store(block->scale[g], d * FromU8(p));
          Store(block->offset[g], VecF{} - dmin * FromU8(p + 16));
          p += 32;
        } else {
          const VecF scale = d * FromS8(p);
          Store(block->scale[g], scale);
          Store(block->offset[g], scale * Splat(-offset_codes));
          p += 16;
        }
      }
    }
    p = UnpackCodes<kBits>(p, block->codes);
  }
};

template <int kRows, int kGroups>
inline void MicroQuant(const Block* blocks, int count, const int8_t* codes, int64_t code_stride,
                       const float* scales, int64_t scale_stride, const float* sums,
                       int64_t sum_stride, float* acc) {
  VecF total[kRows];
  for (int r = 0; r < kRows; ++r) total[r] = Load<VecF>(acc + 16 * r);
  for (int b = 0; b < count; ++b) {
    const Block& block = blocks[b];
    for (int g = 0; g < kGroups; ++g) {
      constexpr int kSteps = 8 / kGroups;
      VecI dot[kRows];
      for (int r = 0; r < kRows; ++r) dot[r] = VecI{};
      for (int s = 0; s < kSteps; ++s) {
        const int step = g * kSteps + s;
        for (int r = 0; r < kRows; ++r) {
          int32_t quad;
          memcpy(&quad, codes + r * code_stride + b * 32 + step * 4, 4);
          dot[r] = DotU8S8(dot[r], block.codes + 64 * step, quad);
        }
      }
      const VecF scale = Load<VecF>(block.scale[g]), offset = Load<VecF>(block.offset[g]);
      for (int r = 0; r < kRows; ++r) {
        const float* sum = sums + r * sum_stride + 2 * b;
        const float x_sum = kGroups == 2 ? sum[g] : sum[0] + sum[1];
        total[r] = Fma(ToFloat(dot[r]), scale * Splat(scales[r * scale_stride + b]), total[r]);
        total[r] = Fma(offset, Splat(x_sum), total[r]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) Store(acc + 16 * r, total[r]);
}

template <int kCount>
struct Rows {
  static constexpr int value = kCount;
};

template <int kBits, int kGroups, bool kSuper, bool kMin>
void GemmQuant(const QuantGemmArgs& a) {
  constexpr int kChunk = 16;
  Block* blocks = static_cast<Block*>(a.scratch);
  PanelReader<kBits, kGroups, kSuper, kMin> reader{a.panel, static_cast<float>(a.format.offset), 0,
                                                   VecF{}, VecF{}};
  const int64_t cols = a.cols, blocks_per_row = cols / 32;
  memset(a.acc, 0, sizeof(float) * 16 * static_cast<size_t>(a.row_count));
  for (int64_t b = 0; b < blocks_per_row; b += kChunk) {
    const int count = static_cast<int>(blocks_per_row - b < kChunk ? blocks_per_row - b : kChunk);
    for (int i = 0; i < count; ++i) reader.Next(&blocks[i]);
    int r = 0;
    const auto run = [&](auto rows) {
      constexpr int kRows = decltype(rows)::value;
      const int64_t row = a.row_begin + r;
      MicroQuant<kRows, kGroups>(blocks, count, a.x->codes + row * cols + b * 32, cols,
                                 a.x->scales + row * blocks_per_row + b, blocks_per_row,
                                 a.x->sums + row * 2 * blocks_per_row + 2 * b, 2 * blocks_per_row,
                                 a.acc + 16 * r);
      r += kRows;
    };
    while (a.row_count - r >= 8) run(Rows<8>{});
    if (a.row_count - r >= 4) run(Rows<4>{});
    if (a.row_count - r >= 2) run(Rows<2>{});
    if (a.row_count - r >= 1) run(Rows<1>{});
  }
}

template <int kBits, int kGroups, bool kSuper, bool kMin>
void UnpackRow(const QuantFormat& format, const uint8_t* panel, int cols, int row, float* out) {
  PanelReader<kBits, kGroups, kSuper, kMin> reader{panel, static_cast<float>(format.offset), 0,
                                                   VecF{}, VecF{}};
  Block block;
  for (int b = 0; b < cols / 32; ++b) {
    reader.Next(&block);
    for (int i = 0; i < 32; ++i) {
      const int g = kGroups == 2 ? i / 16 : 0;
      const float code = block.codes[(i / 4) * 64 + row * 4 + i % 4];
      out[b * 32 + i] = block.scale[g][row] * code + block.offset[g][row];
    }
  }
}

// Calls f with the template arguments of a format.
template <typename Gemm, typename Args>
inline void Dispatch(const QuantFormat& f, Gemm gemm, const Args& args) {
  if (f.super) {
    if (f.bits == 4) return gemm.template Run<4, 1, true, true>(args);
    if (f.bits == 5) return gemm.template Run<5, 1, true, true>(args);
    return gemm.template Run<6, 2, true, false>(args);
  }
  if (f.bits == 8) return gemm.template Run<8, 1, false, false>(args);
  if (f.bits == 4)
    return f.has_min ? gemm.template Run<4, 1, false, true>(args)
                     : gemm.template Run<4, 1, false, false>(args);
  return f.has_min ? gemm.template Run<5, 1, false, true>(args)
                   : gemm.template Run<5, 1, false, false>(args);
}

struct GemmCall {
  template <int kBits, int kGroups, bool kSuper, bool kMin>
  void Run(const QuantGemmArgs& args) {
    GemmQuant<kBits, kGroups, kSuper, kMin>(args);
  }
};
struct UnpackArgs {
  const QuantFormat& format;
  const uint8_t* panel;
  int cols, row;
  float* out;
};
struct UnpackCall {
  template <int kBits, int kGroups, bool kSuper, bool kMin>
  void Run(const UnpackArgs& a) {
    UnpackRow<kBits, kGroups, kSuper, kMin>(a.format, a.panel, a.cols, a.row, a.out);
  }
};

void GemmQuantAny(const QuantGemmArgs& args) { Dispatch(args.format, GemmCall{}, args); }
void UnpackQuantAny(const QuantFormat& format, const uint8_t* panel, int cols, int row,
                    float* out) {
  Dispatch(format, UnpackCall{}, UnpackArgs{format, panel, cols, row, out});
}

void QuantizeRow(const float* x, int cols, int8_t* codes, float* scales, float* sums) {
  for (int b = 0; b < cols / 32; ++b) {
    const VecF lo = Load<VecF>(x + 32 * b), hi = Load<VecF>(x + 32 * b + 16);
    const float largest = ReduceMax(Max(Max(lo, VecF{} - lo), Max(hi, VecF{} - hi)));
    const float scale = largest / 127.0f;
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    scales[b] = scale;
    for (int half = 0; half < 2; ++half) {
      const VecF magic = Splat(12582912.0f);
      const VecI q = AsInt((half ? hi : lo) * Splat(inverse) + magic) - AsInt(magic);
      int32_t total = 0;
      for (int i = 0; i < 16; ++i) {
        codes[32 * b + 16 * half + i] = static_cast<int8_t>(q[i]);
        total += q[i];
      }
      sums[2 * b + half] = scale * static_cast<float>(total);
    }
  }
}

// ---- 16- and 32-bit weights
// ----------------------------------------------------------------------------------------------------------------------

template <int kRows>
inline void MicroBf16(const int32_t* panel, int pairs, const uint16_t* x, int64_t stride,
                      float* acc) {
  VecF total[kRows][4];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < 4; ++v) total[r][v] = VecF{};
  for (int p = 0; p < pairs; ++p) {
    VecI w[4];
    for (int v = 0; v < 4; ++v) w[v] = Load<VecI>(panel + 64 * p + 16 * v);
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      memcpy(&pair, x + r * stride + 2 * p, 4);
      for (int v = 0; v < 4; ++v) total[r][v] = DotBf16(total[r][v], pair, w[v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < 4; ++v) Store(acc + 64 * r + 16 * v, total[r][v]);
}

void GemmBf16(const DenseGemmArgs& a) {
  const int32_t* panel = static_cast<const int32_t*>(a.panel);
  const uint16_t* x = static_cast<const uint16_t*>(a.x);
  int r = 0;
  for (; a.row_count - r >= 6; r += 6)
    MicroBf16<6>(panel, a.cols / 2, x + r * a.x_stride, a.x_stride, a.acc + 64 * r);
  for (; a.row_count - r >= 2; r += 2)
    MicroBf16<2>(panel, a.cols / 2, x + r * a.x_stride, a.x_stride, a.acc + 64 * r);
  for (; a.row_count - r >= 1; r += 1)
    MicroBf16<1>(panel, a.cols / 2, x + r * a.x_stride, a.x_stride, a.acc + 64 * r);
}

inline VecF LoadWeight(const float* p) { return Load<VecF>(p); }
inline VecF LoadWeight(const uint16_t* p) { return LoadF16(p); }

template <int kRows, typename W>
inline void MicroFloat(const W* panel, int cols, const float* x, int64_t stride, float* acc) {
  VecF total[kRows][4];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < 4; ++v) total[r][v] = VecF{};
  for (int k = 0; k < cols; ++k) {
    VecF w[4];
    for (int v = 0; v < 4; ++v) w[v] = LoadWeight(panel + 64 * static_cast<int64_t>(k) + 16 * v);
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < 4; ++v) total[r][v] = Fma(Splat(x[r * stride + k]), w[v], total[r][v]);
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < 4; ++v) Store(acc + 64 * r + 16 * v, total[r][v]);
}

template <typename W>
void GemmFloat(const DenseGemmArgs& a) {
  const W* panel = static_cast<const W*>(a.panel);
  const float* x = static_cast<const float*>(a.x);
  int r = 0;
  for (; a.row_count - r >= 4; r += 4)
    MicroFloat<4>(panel, a.cols, x + r * a.x_stride, a.x_stride, a.acc + 64 * r);
  for (; a.row_count - r >= 1; r += 1)
    MicroFloat<1>(panel, a.cols, x + r * a.x_stride, a.x_stride, a.acc + 64 * r);
}

void ToBf16Row(const float* x, int cols, uint16_t* out) {
  int i = 0;
  for (; i + kLanes <= cols; i += kLanes) StoreBf16(out + i, Load<VecF>(x + i));
  if (i < cols) {
    float tail[kLanes] = {};
    uint16_t bits[kLanes];
    for (int j = i; j < cols; ++j) tail[j - i] = x[j];
    StoreBf16(bits, Load<VecF>(tail));
    for (int j = i; j < cols; ++j) out[j] = bits[j - i];
  }
}

// ---- row-wise ops
// --------------------------------------------------------------------------------------------------------------------------------

void RmsNormRow(const float* x, const float* weight, float eps, int cols, float* out) {
  VecF squares{};
  int i = 0;
  for (; i + kLanes <= cols; i += kLanes) {
    const VecF v = Load<VecF>(x + i);
    squares = Fma(v, v, squares);
  }
  float sum = ReduceAdd(squares);
  for (int j = i; j < cols; ++j) sum += x[j] * x[j];
  const float scale = 1.0f / __builtin_sqrtf(sum / static_cast<float>(cols) + eps);
  for (i = 0; i < cols; ++i) out[i] = x[i] * scale * weight[i];
}

void SiluMulRow(const float* gate, const float* up, int cols, float* out) {
  const auto silu = [](VecF g, VecF u) {
    const VecF e = Exp2(Pick(g < -80.0f, Splat(80.0f), VecF{} - g) * Splat(1.44269504088896341f));
    return g / (Splat(1.0f) + e) * u;
  };
  int i = 0;
  for (; i + kLanes <= cols; i += kLanes)
    Store(out + i, silu(Load<VecF>(gate + i), Load<VecF>(up + i)));
  if (i < cols) {
    float g[kLanes] = {}, u[kLanes] = {};
    for (int j = i; j < cols; ++j) g[j - i] = gate[j], u[j - i] = up[j];
    Store(g, silu(Load<VecF>(g), Load<VecF>(u)));
    for (int j = i; j < cols; ++j) out[j] = g[j - i];
  }
}

void RotateRow(float* x, const float* rope, int heads, int dim) {
  const int half = dim / 2;
  for (int h = 0; h < heads; ++h, x += dim)
    for (int i = 0; i < half; ++i) {
      const float a = x[i], b = x[i + half], c = rope[i], s = rope[i + half];
      x[i] = a * c - b * s;
      x[i + half] = b * c + a * s;
    }
}

}  // namespace

namespace LSERVE_ISA {
void FillLinear(CpuKernels* table) {
  table->quantize_row = QuantizeRow;
  table->to_bf16_row = ToBf16Row;
  table->gemm_quant = GemmQuantAny;
  table->unpack_quant = UnpackQuantAny;
  table->gemm_bf16 = GemmBf16;
  table->gemm_f16 = GemmFloat<uint16_t>;
  table->gemm_f32 = GemmFloat<float>;
  table->rms_norm_row = RmsNormRow;
  table->silu_mul_row = SiluMulRow;
  table->rotate_row = RotateRow;
}
}  // namespace LSERVE_ISA

}  // namespace lserve
