// The kernels of the CPU backend as a table of functions, one table an instruction set. The files
// named *_kernels.cc are compiled once for each set with other flags; BestKernels picks at run
// time the best that the processor has, or what LSERVE_CPU_ISA (base, avx2, avx512) names. Only
// plain pointers and numbers cross this border (see simd.h).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace lserve {

// Rows of activations in 8 bits, a scale for every 32 elements (max |x| / 127).
struct QuantRows {
  int8_t* codes;  // [rows][cols]
  float* scales;  // [rows][cols / 32]
  float* sums;    // [rows][cols / 16]: scale * sum of the codes of 16 elements
};

// How a block format's codes and scales are packed for 16 rows; see packed_weight.h.
struct QuantFormat {
  int bits;      // 4, 5, 6, 8
  int groups;    // scales for each 32 elements: 1 or 2
  bool super;    // f16 scale(s) for 256 elements and 8-bit ones below them
  bool has_min;  // a stored minimum; else the offset is fixed
  int offset;    // w = scale * (code - offset) where there is no minimum
};

struct QuantGemmArgs {
  QuantFormat format;
  const uint8_t* panel;  // 16 rows of the weight, packed
  int cols;
  const QuantRows* x;
  int row_begin, row_count;  // rows of x, at most kGemmRows
  float* acc;                // out [row_count][16]
  void* scratch;             // kQuantScratch bytes
};
inline constexpr int kGemmRows = 128;
inline constexpr size_t kQuantScratch = 16 * (512 + 4 * 64);

// Panels of 64 rows: bf16 pairs [cols / 2][64][2], or f16 / f32 [cols][64].
struct DenseGemmArgs {
  const void* panel;
  int cols;          // even for bf16
  const void* x;     // bf16 rows (bf16 panels) or float rows
  int64_t x_stride;  // elements
  int row_count;
  float* acc;  // out [row_count][64]
};

// One run of blocks of a tile within one segment; see attention.cc.
struct AttnBlockArgs {
  const uint16_t* q;     // bf16 [rows][dim]
  const uint16_t* k;     // bf16 pairs [dim / 2][64][2]
  const uint16_t* v;     // bf16 pairs [32][dim][2]
  int rows, dim, group;  // row r is query r / group
  float scale_log2;      // softmax scale * log2(e)
  bool masked;
  int k_pos, q_pos, sink_len, window_len;  // absolute positions of key 0 and query 0
  float* max;                              // [rows] running maximum of scaled logits (base 2)
  float* sum;                              // [rows]
  float* out;                              // [rows][dim]
};

// Codes of one slice to bf16 pairs in the same element order.
struct DecodeSliceArgs {
  int bits;  // 8 or 4
  const uint8_t* codes;
  const uint16_t *scale, *min;  // f16 [64]
  int dim;
  bool keys;      // K order (lanes are tokens) or V order (lanes are channels)
  uint16_t* out;  // [64 * dim]
};

struct CpuKernels {
  const char* isa;
  void (*quantize_row)(const float* x, int cols, int8_t* codes, float* scales, float* sums);
  void (*to_bf16_row)(const float* x, int cols, uint16_t* out);
  void (*gemm_quant)(const QuantGemmArgs& args);
  void (*unpack_quant)(const QuantFormat& format, const uint8_t* panel, int cols, int row,
                       float* out);
  void (*gemm_bf16)(const DenseGemmArgs& args);
  void (*gemm_f16)(const DenseGemmArgs& args);
  void (*gemm_f32)(const DenseGemmArgs& args);
  void (*rms_norm_row)(const float* x, const float* weight, float eps, int cols, float* out);
  void (*silu_mul_row)(const float* gate, const float* up, int cols, float* out);
  void (*rotate_row)(float* x, const float* rope, int heads, int dim);
  void (*decode_slice)(const DecodeSliceArgs& args);
  void (*attn_block)(const AttnBlockArgs& args);
  // score[l] = sum_i max(q_i * min_li, q_i * max_li) for logical pages l, from a slice's statistics
  // of 16 or 8 bits (plan/key_stats.h).
  void (*box_scores)(const float* q, const uint16_t* stats, int bits, int pages, int dim,
                     float* scores);
  // best[r] = max over the 64 keys of a block of q_r.k, tail[r] over the last `reach` of them
  // (-infinity for none); q bf16 [rows][dim], k as in AttnBlockArgs.
  void (*best_keys)(const uint16_t* q, const uint16_t* k, int rows, int dim, int reach, float* best,
                    float* tail);
};

const CpuKernels& BestKernels();

}  // namespace lserve
