// Products of activations with packed weights, and the row-wise ops. Compiled once an instruction
// set (LSERVE_ISA names the table).
//
// Every row of the input gets the same sequence of operations whatever the number of rows in the
// call: a row's result is independent of its batch.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/micro_tile.h"

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

inline VecF FromU8(const uint8_t* p) { return ToFloat(LoadU8(p)); }
inline VecF FromS8(const uint8_t* p) { return ToFloat((LoadU8(p) << 24) >> 24); }

// Reads a panel block by block; the layout is packed_weight.h's.
template <int kBits, int kGroups, bool kSuper, bool kMin>
struct PanelReader {
  const uint8_t* p;
  float offset_codes;
  int index = 0;
  VecF d[kGroupVecs], dmin[kGroupVecs];

  // 16 half floats.
  inline void NextF16(VecF (&out)[kGroupVecs]) {
    for (int v = 0; v < kGroupVecs; ++v)
      out[v] = LoadF16(reinterpret_cast<const uint16_t*>(p) + kLanes * v);
    p += 32;
  }

  inline void Next(Block* block) {
    if constexpr (!kSuper) {
      VecF scale[kGroupVecs], offset[kGroupVecs];
      NextF16(scale);
      if constexpr (kMin) NextF16(offset);
      for (int v = 0; v < kGroupVecs; ++v) {
        Store(block->scale[0] + kLanes * v, scale[v]);
        Store(block->offset[0] + kLanes * v, kMin ? offset[v] : scale[v] * Splat(-offset_codes));
      }
    } else {
      if (index++ % 8 == 0) {
        NextF16(d);
        if constexpr (kMin) NextF16(dmin);
      }
      for (int g = 0; g < kGroups; ++g, p += kMin ? 32 : 16)
        for (int v = 0; v < kGroupVecs; ++v) {
          const uint8_t* codes = p + kLanes * v;
          const VecF scale = d[v] * (kMin ? FromU8(codes) : FromS8(codes));
          const VecF offset =
              kMin ? VecF{} - dmin[v] * FromU8(codes + 16) : scale * Splat(-offset_codes);
          Store(block->scale[g] + kLanes * v, scale);
          Store(block->offset[g] + kLanes * v, offset);
        }
    }
    p = UnpackCodes<kBits>(p, block->codes);
  }
};

template <int kBits, int kRows, int kGroups>
inline void MicroQuant(const Block* blocks, int count, const int8_t* codes, int64_t code_stride,
                       const float* scales, int64_t scale_stride, const float* sums,
                       int64_t sum_stride, float* acc) {
  VecF total[kRows][kGroupVecs];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kGroupVecs; ++v) total[r][v] = Load<VecF>(acc + 16 * r + kLanes * v);
  for (int b = 0; b < count; ++b) {
    const Block& block = blocks[b];
    for (int g = 0; g < kGroups; ++g) {
      constexpr int kSteps = 8 / kGroups;
      VecI dot[kRows][kGroupVecs] = {};
      for (int s = 0; s < kSteps; ++s) {
        const int step = g * kSteps + s;
        for (int r = 0; r < kRows; ++r) {
          int32_t quad;
          memcpy(&quad, codes + r * code_stride + b * 32 + step * 4, 4);
          for (int v = 0; v < kGroupVecs; ++v)
            dot[r][v] = DotU8S8<kBits>(dot[r][v], block.codes + 64 * step + 4 * kLanes * v, quad);
        }
      }
      for (int v = 0; v < kGroupVecs; ++v) {
        const VecF scale = Load<VecF>(block.scale[g] + kLanes * v);
        const VecF offset = Load<VecF>(block.offset[g] + kLanes * v);
        for (int r = 0; r < kRows; ++r) {
          const float* sum = sums + r * sum_stride + 2 * b;
          const float x_sum = kGroups == 2 ? sum[g] : sum[0] + sum[1];
          const VecF x_scale = Splat(scales[r * scale_stride + b]);
          total[r][v] = Fma(ToFloat(dot[r][v]), scale * x_scale, total[r][v]);
          total[r][v] = Fma(offset, Splat(x_sum), total[r][v]);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kGroupVecs; ++v) Store(acc + 16 * r + kLanes * v, total[r][v]);
}

template <int kCount>
struct Rows {
  static constexpr int value = kCount;
};

template <int kBits, int kGroups, bool kSuper, bool kMin>
void GemmQuant(const QuantGemmArgs& a) {
  constexpr int kChunk = 16;
  Block* blocks = static_cast<Block*>(a.scratch);
  PanelReader<kBits, kGroups, kSuper, kMin> reader{
      a.panel, static_cast<float>(a.format.offset), 0, {}, {}};
  const int64_t cols = a.cols, blocks_per_row = cols / 32;
  memset(a.acc, 0, sizeof(float) * 16 * static_cast<size_t>(a.row_count));
  for (int64_t b = 0; b < blocks_per_row; b += kChunk) {
    const int count = static_cast<int>(blocks_per_row - b < kChunk ? blocks_per_row - b : kChunk);
    for (int i = 0; i < count; ++i) reader.Next(&blocks[i]);
    int r = 0;
    const auto run = [&](auto rows) {
      constexpr int kRows = decltype(rows)::value;
      const int64_t row = a.row_begin + r;
      MicroQuant<kBits, kRows, kGroups>(blocks, count, a.x->codes + row * cols + b * 32, cols,
                                        a.x->scales + row * blocks_per_row + b, blocks_per_row,
                                        a.x->sums + row * 2 * blocks_per_row + 2 * b,
                                        2 * blocks_per_row, a.acc + 16 * r);
      r += kRows;
    };
    if constexpr (kLanes == 16)  // 8 rows of 16 sums are more than 16 smaller registers hold
      while (a.row_count - r >= 8) run(Rows<8>{});
    while (a.row_count - r >= 4) run(Rows<4>{});
    if (a.row_count - r >= 2) run(Rows<2>{});
    if (a.row_count - r >= 1) run(Rows<1>{});
  }
}

template <int kBits, int kGroups, bool kSuper, bool kMin>
void UnpackRow(const QuantFormat& format, const uint8_t* panel, int cols, int row, float* out) {
  PanelReader<kBits, kGroups, kSuper, kMin> reader{
      panel, static_cast<float>(format.offset), 0, {}, {}};
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
  for (int b = 0; b < cols / 32; ++b, x += 32, codes += 32) {
    VecF most{};
    for (int i = 0; i < 32; i += kLanes) {
      const VecF v = Load<VecF>(x + i);
      most = Max(most, Max(v, VecF{} - v));
    }
    const float largest = ReduceMax(most);
    const float scale = largest / 127.0f;
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    scales[b] = scale;
    int32_t total[2] = {};
    for (int i = 0; i < 32; i += kLanes) {
      const VecF magic = Splat(12582912.0f);  // as in Exp2
      const VecI q = AsInt(Load<VecF>(x + i) * Splat(inverse) + magic) - AsInt(magic);
      for (int j = 0; j < kLanes; ++j) {
        codes[i + j] = static_cast<int8_t>(q[j]);
        total[(i + j) / 16] += q[j];
      }
    }
    for (int half = 0; half < 2; ++half)
      sums[2 * b + half] = scale * static_cast<float>(total[half]);
  }
}

// ---- 16- and 32-bit weights
// ----------------------------------------------------------------------------------------------------------------------

template <int kRows>
inline void RowsBf16(const DenseGemmArgs& a, int row) {
  PairProduct<kRows>(static_cast<const uint16_t*>(a.x) + row * a.x_stride, a.x_stride,
                     static_cast<const int32_t*>(a.panel), 64, a.cols / 2, 64, false,
                     a.acc + 64 * row, 64);
}

void GemmBf16(const DenseGemmArgs& a) {
  int r = 0;
  for (; a.row_count - r >= kTileRows; r += kTileRows) RowsBf16<kTileRows>(a, r);
  for (; a.row_count - r >= 2; r += 2) RowsBf16<2>(a, r);
  for (; a.row_count - r >= 1; r += 1) RowsBf16<1>(a, r);
}

inline VecF LoadWeight(const float* p) { return Load<VecF>(p); }
inline VecF LoadWeight(const uint16_t* p) { return LoadF16(p); }

template <int kRows, typename W>
inline void RowsFloat(const DenseGemmArgs& a, int row) {
  constexpr int kVecs = kTileVecs<kRows>;
  const W* panel = static_cast<const W*>(a.panel);
  const float* x = static_cast<const float*>(a.x) + row * a.x_stride;
  for (int i = 0; i < 64; i += kVecs * kLanes) {
    VecF total[kRows][kVecs] = {};
    for (int k = 0; k < a.cols; ++k) {
      VecF w[kVecs];
      for (int v = 0; v < kVecs; ++v)
        w[v] = LoadWeight(panel + 64 * static_cast<int64_t>(k) + i + kLanes * v);
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kVecs; ++v)
          total[r][v] = Fma(Splat(x[r * a.x_stride + k]), w[v], total[r][v]);
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVecs; ++v) Store(a.acc + 64 * (row + r) + i + kLanes * v, total[r][v]);
  }
}

template <typename W>
void GemmFloat(const DenseGemmArgs& a) {
  int r = 0;
  for (; a.row_count - r >= kTileRows; r += kTileRows) RowsFloat<kTileRows, W>(a, r);
  for (; a.row_count - r >= 2; r += 2) RowsFloat<2, W>(a, r);
  for (; a.row_count - r >= 1; r += 1) RowsFloat<1, W>(a, r);
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
