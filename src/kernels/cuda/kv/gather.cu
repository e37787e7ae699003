// Gather: pages of one sequence, as the codec gives them back, into 16-bit rows that the prefill
// kernel reads: [scratch head][token][D]. A block of threads has one slice. K comes in pairs of
// channels for 64 tokens and is turned in shared memory; V comes in pairs of tokens for D channels,
// which are two rows already.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/numbers.cuh"

namespace lserve::cuda {
namespace {

constexpr int kThreads = 256;

// Scale and minimum of every token; a bf16 element is its own value.
struct Affine {
  float scale, minimum;
};

template <int kBits>
__device__ Affine LoadAffine(const std::byte* scales, int token) {
  if (kBits == 16) return {1, 0};
  const uint16_t* s = reinterpret_cast<const uint16_t*>(scales);
  return {F16ToFloat(s[token]), F16ToFloat(s[kBlockTokens + token])};
}

// Element i of 32 bits of elements.
template <int kBits>
__device__ float Element(uint32_t word, int i) {
  if (kBits == 16) return __uint_as_float(i == 0 ? word << 16 : word & 0xffff0000u);
  if (kBits == 8) return static_cast<float>((word >> (8 * i)) & 255);
  return static_cast<float>((word >> (4 * i)) & 15);
}

// One more word a row: neighbours in a column lie in different banks.
template <int kDim>
using Rows = uint32_t[kBlockTokens][kDim / 2 + 1];

template <int kDim, int kBits>
__device__ void GatherK(const std::byte* slice, const std::byte* scales, Rows<kDim>& rows,
                        Bf16* out) {
  constexpr int kPairs = 32 / kBits / 2 > 0 ? 32 / kBits / 2 : 1;  // (c, c + 1) pairs in a word
  const uint32_t* words = reinterpret_cast<const uint32_t*>(slice);
  for (int i = threadIdx.x; i < kDim / 2 * kBlockTokens / kPairs; i += kThreads) {
    const uint32_t word = words[i];
    const int pair = i / (kBlockTokens / kPairs), t0 = i % (kBlockTokens / kPairs) * kPairs;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const Affine a = LoadAffine<kBits>(scales, t0 + j);
      rows[t0 + j][pair] = PackBf16(a.scale * Element<kBits>(word, 2 * j) + a.minimum,
                                    a.scale * Element<kBits>(word, 2 * j + 1) + a.minimum);
    }
  }
  __syncthreads();
  uint32_t* to = reinterpret_cast<uint32_t*>(out);
  for (int i = threadIdx.x; i < kBlockTokens * kDim / 2; i += kThreads)
    to[i] = rows[i / (kDim / 2)][i % (kDim / 2)];
}

template <int kDim, int kBits>
__device__ void GatherV(const std::byte* elements, const std::byte* scales, Bf16* out) {
  constexpr int kPairs = 32 / kBits / 2 > 0 ? 32 / kBits / 2 : 1;  // channels in a word
  const uint32_t* words = reinterpret_cast<const uint32_t*>(elements);
  // A thread has two words, so that it writes at least 4 bytes a row.
  constexpr int kWords = kPairs == 1 ? 2 : 1, kChannels = kPairs * kWords;
  for (int i = threadIdx.x; i < kBlockTokens / 2 * kDim / kChannels; i += kThreads) {
    const int pair = i / (kDim / kChannels), c0 = i % (kDim / kChannels) * kChannels;
    const Affine low = LoadAffine<kBits>(scales, 2 * pair);
    const Affine high = LoadAffine<kBits>(scales, 2 * pair + 1);
    float x[2][kChannels];
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t word = words[i * kWords + w];
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        x[0][w * kPairs + j] = low.scale * Element<kBits>(word, 2 * j) + low.minimum;
        x[1][w * kPairs + j] = high.scale * Element<kBits>(word, 2 * j + 1) + high.minimum;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      uint32_t* to = reinterpret_cast<uint32_t*>(out + (2 * pair + r) * kDim + c0);
#pragma unroll
      for (int c = 0; c < kChannels; c += 2) to[c / 2] = PackBf16(x[r][c], x[r][c + 1]);
    }
  }
}

template <int kDim>
__global__ void GatherKernel(GatherLaunch a) {
  __shared__ Rows<kDim> rows;
  const GatherRange range = a.ranges[blockIdx.y];
  const int block = range.first + blockIdx.x;
  if (block >= range.end) return;
  const int page = a.view.Page(a.slot, range.kv_head, block);
  if (page == kNoPage) return;  // released: no list names it
  const DeviceCodec& codec = a.view.codec;
  const std::byte* slice = a.view.Slice(range.kv_head, page);
  const int64_t at = range.to * a.head_stride + static_cast<int64_t>(block) * kBlockTokens * kDim;
  const std::byte *k_scales = slice + codec.k_scale_offset, *v = slice + codec.v_offset,
                  *v_scales = slice + codec.v_scale_offset;
  if (codec.k_bits == 16)
    GatherK<kDim, 16>(slice, k_scales, rows, a.k + at);
  else if (codec.k_bits == 8)
    GatherK<kDim, 8>(slice, k_scales, rows, a.k + at);
  else
    GatherK<kDim, 4>(slice, k_scales, rows, a.k + at);
  if (codec.v_bits == 16)
    GatherV<kDim, 16>(v, v_scales, a.v + at);
  else if (codec.v_bits == 8)
    GatherV<kDim, 8>(v, v_scales, a.v + at);
  else
    GatherV<kDim, 4>(v, v_scales, a.v + at);
}

}  // namespace

cudaError_t LaunchGather(const GatherLaunch& args, cudaStream_t stream) {
  if (args.num_ranges == 0 || args.max_blocks == 0) return cudaSuccess;
  const dim3 grid(args.max_blocks, args.num_ranges);
  if (args.view.codec.dim == 64)
    GatherKernel<64><<<grid, kThreads, 0, stream>>>(args);
  else if (args.view.codec.dim == 128)
    GatherKernel<128><<<grid, kThreads, 0, stream>>>(args);
  else
    return cudaErrorInvalidValue;
  return cudaGetLastError();
}

}  // namespace lserve::cuda
