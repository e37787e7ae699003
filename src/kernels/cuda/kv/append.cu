// Append: bias, head norm, rotary embedding, quantisation, page write and key statistics in one
// pass over QKV. A block of threads has the tokens of one logical page (the unit of statistics, and
// never less than the pair of tokens that share a byte of kv4 values) and one KV head with the
// query heads of its group; a warp has one head of one token at a time. Who has the last token of a
// logical page makes its statistics, with the keys that earlier launches stored.
//
// Bytes, D = 128, kv8, group 4, a token and KV head: 1.5 KiB of QKV read, 1 KiB of q written, 264
// bytes of page: about 2.8 KiB, so 8,192 tokens of 8 heads take 60 us at 3 TB/s.
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launch_dependent.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/bulk_copy.cuh"

namespace lserve::cuda {
namespace {

constexpr int kBatch = 16;  // tokens between two barriers

// A head's D values over a warp: lane l holds channels l + 32 e and, in x[E + e], D/2 further.
template <int E>
struct Head {
  float x[2 * E];
};

__device__ float WarpSum(float x) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
  return x;
}
__device__ float WarpMin(float x) {
  for (int i = 16; i > 0; i /= 2) x = fminf(x, __shfl_xor_sync(~0u, x, i));
  return x;
}
__device__ float WarpMax(float x) {
  for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
  return x;
}

template <int E, bool kWide>
__device__ Head<E> Load(const AppendLaunch& a, int64_t offset, int column) {
  const int lane = threadIdx.x % 32;
  Head<E> head;
#pragma unroll
  for (int e = 0; e < 2 * E; ++e) {
    const int64_t i = offset + column + lane + 32 * e;
    head.x[e] = kWide ? static_cast<const float*>(a.qkv)[i]
                      : Bf16ToFloat(static_cast<const Bf16*>(a.qkv)[i]);
    if (a.bias) head.x[e] += a.bias[column + lane + 32 * e];
  }
  return head;
}

template <int E, bool kWide>
__device__ void Store(const AppendLaunch& a, int64_t offset, int column, const Head<E>& head) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int e = 0; e < 2 * E; ++e) {
    const int64_t i = offset + column + lane + 32 * e;
    if (kWide)
      static_cast<float*>(a.qkv)[i] = head.x[e];
    else
      static_cast<Bf16*>(a.qkv)[i] = FloatToBf16(head.x[e]);
  }
}

template <int E>
__device__ void Norm(Head<E>* head, const float* weight, float eps) {
  if (weight == nullptr) return;
  float sum = 0;
#pragma unroll
  for (int e = 0; e < 2 * E; ++e) sum += head->x[e] * head->x[e];
  const float scale = rsqrtf(WarpSum(sum) / (64 * E) + eps);
#pragma unroll
  for (int e = 0; e < 2 * E; ++e) head->x[e] *= scale * weight[threadIdx.x % 32 + 32 * e];
}

template <int E>
__device__ void Rotate(Head<E>* head, const float* rope) {
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const float c = rope[threadIdx.x % 32 + 32 * e], s = rope[32 * E + threadIdx.x % 32 + 32 * e];
    const float x1 = head->x[e], x2 = head->x[E + e];
    head->x[e] = x1 * c - x2 * s;
    head->x[E + e] = x2 * c + x1 * s;
  }
}

// HadamardTransform, adding in its order: channels of lanes first, then those a lane has.
template <int E>
__device__ void Transform(Head<E>* head) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 1; half < 32; half *= 2) {
#pragma unroll
    for (int e = 0; e < 2 * E; ++e) {
      const float other = __shfl_xor_sync(~0u, head->x[e], half);
      head->x[e] = lane & half ? other - head->x[e] : head->x[e] + other;
    }
  }
#pragma unroll
  for (int half = 1; half < 2 * E; half *= 2) {
#pragma unroll
    for (int e = 0; e < 2 * E; ++e) {
      if (e & half) continue;
      const float a = head->x[e], b = head->x[e + half];
      head->x[e] = a + b;
      head->x[e + half] = a - b;
    }
  }
  const float scale = 1.0f / sqrtf(64.0f * E);
#pragma unroll
  for (int e = 0; e < 2 * E; ++e) head->x[e] *= scale;
}

__device__ float Finite(float x) { return isnan(x) ? 0.0f : fminf(fmaxf(x, -65504.0f), 65504.0f); }

// Codes of one head of one token into codes[0, D) (bf16 bits or numbers below 256), scale and
// minimum into the slice, and what the codec gives back into decoded[0, D) where wanted.
template <int E>
__device__ void Encode(const Head<E>& head, int bits, std::byte* scales, int token, uint16_t* codes,
                       float* decoded) {
  const int lane = threadIdx.x % 32;
  if (bits == 16) {
#pragma unroll
    for (int e = 0; e < 2 * E; ++e) {
      const uint16_t code = FloatToBf16(head.x[e]);
      codes[lane + 32 * e] = code;
      if (decoded) decoded[lane + 32 * e] = Bf16ToFloat(code);
    }
    return;
  }
  float low = Finite(head.x[0]), high = low;
#pragma unroll
  for (int e = 1; e < 2 * E; ++e) {
    low = fminf(low, Finite(head.x[e]));
    high = fmaxf(high, Finite(head.x[e]));
  }
  low = WarpMin(low);
  high = WarpMax(high);
  const float levels = static_cast<float>((1 << bits) - 1);
  const uint16_t min_bits = FloatToF16Down(low == 0 ? 0.0f : low);
  const float m = F16ToFloat(min_bits);
  const uint16_t scale_bits = high > low ? FloatToF16Up(__fdiv_rn(high - m, levels)) : 0;
  const float s = F16ToFloat(scale_bits);
  if (lane == 0) {
    reinterpret_cast<uint16_t*>(scales)[token] = scale_bits;
    reinterpret_cast<uint16_t*>(scales)[kBlockTokens + token] = min_bits;
  }
  const float inverse = s > 0 ? __fdiv_rn(1.0f, s) : 0.0f;
#pragma unroll
  for (int e = 0; e < 2 * E; ++e) {
    const float code = fminf(fmaxf(rintf(__fmul_rn(Finite(head.x[e]) - m, inverse)), 0.0f), levels);
    codes[lane + 32 * e] = static_cast<uint16_t>(code);
    if (decoded) decoded[lane + 32 * e] = __fadd_rn(__fmul_rn(s, code), m);
  }
}

// One channel of a stored key, as KvCodec::DecodeK.
__device__ float DecodeK(const DeviceCodec& codec, const std::byte* slice, int token, int channel) {
  const int i = ((channel / 2) * kBlockTokens + token) * 2 + channel % 2;
  if (codec.k_bits == 16) return Bf16ToFloat(reinterpret_cast<const uint16_t*>(slice)[i]);
  const uint8_t* codes = reinterpret_cast<const uint8_t*>(slice);
  const int code = codec.k_bits == 8 ? codes[i] : codes[i / 2] >> (4 * (i % 2)) & 15;
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(slice + codec.k_scale_offset);
  return __fadd_rn(__fmul_rn(F16ToFloat(scales[token]), static_cast<float>(code)),
                   F16ToFloat(scales[kBlockTokens + token]));
}

// One side of a logical page's statistics in 8 bits, by a warp: the bytes of plan/key_stats.cc.
template <int E>
__device__ void EncodeSide(const float* bounds, bool up, uint8_t* codes, uint16_t* scale_min) {
  constexpr float kMostCoded = 0x1p126f;
  const int lane = threadIdx.x % 32;
  float x[2 * E], least = INFINITY, most = -INFINITY;
#pragma unroll
  for (int e = 0; e < 2 * E; ++e) {
    x[e] = fminf(fmaxf(bounds[lane + 32 * e], -kMostCoded), kMostCoded);
    least = fminf(least, x[e]);
    most = fmaxf(most, x[e]);
  }
  least = WarpMin(least);
  most = WarpMax(most);
  const uint16_t min_bits = FloatToBf16Down(least == 0 ? 0.0f : least);
  const float m = Bf16ToFloat(min_bits);
  uint16_t scale_bits = most > m ? FloatToBf16Up(__fdiv_rn(most - m, 255.0f)) : 0;
  if (Bf16ToFloat(scale_bits) * 255.0f + m < most) ++scale_bits;
  const float s = Bf16ToFloat(scale_bits);
  if (lane == 0) scale_min[0] = scale_bits, scale_min[1] = min_bits;
#pragma unroll
  for (int e = 0; e < 2 * E; ++e) {
    const float exact = s > 0 ? __fdiv_rn(x[e] - m, s) : 0.0f;
    float code = fminf(fmaxf(up ? ceilf(exact) : floorf(exact), 0.0f), 255.0f);
    while (up ? s * code + m < x[e] : s * code + m > x[e]) code += up ? 1.0f : -1.0f;
    codes[lane + 32 * e] = static_cast<uint8_t>(code);
  }
}

// Tokens [first, first + count) of the block from codes [token][stride] into K's order: pairs of
// channels, then tokens.
__device__ void WriteK(const uint16_t* codes, int stride, int first, int count, int dim, int bits,
                       std::byte* slice) {
  for (int i = threadIdx.x; i < dim / 2 * count; i += blockDim.x) {
    const int pair = i / count, t = i % count;
    const uint16_t low = codes[t * stride + 2 * pair], high = codes[t * stride + 2 * pair + 1];
    const int unit = pair * kBlockTokens + first + t;
    if (bits == 16)
      reinterpret_cast<uint32_t*>(slice)[unit] = low | static_cast<uint32_t>(high) << 16;
    else if (bits == 8)
      reinterpret_cast<uint16_t*>(slice)[unit] = low | high << 8;
    else
      reinterpret_cast<uint8_t*>(slice)[unit] = low | high << 4;
  }
}

// The same into V's order: pairs of tokens, then channels. At an odd border one half of a pair
// stays as it is.
__device__ void WriteV(const uint16_t* codes, int stride, int first, int count, int dim, int bits,
                       std::byte* elements) {
  const int first_pair = first / 2, pairs = (first + count - 1) / 2 - first_pair + 1;
  for (int i = threadIdx.x; i < dim * pairs; i += blockDim.x) {
    const int pair = first_pair + i / dim, c = i % dim, unit = pair * dim + c;
    const int t = 2 * pair - first;
    const bool has_low = t >= 0, has_high = t + 1 < count;
    const uint32_t low = has_low ? codes[t * stride + c] : 0;
    const uint32_t high = has_high ? codes[(t + 1) * stride + c] : 0;
    if (bits == 4) {
      uint8_t* at = reinterpret_cast<uint8_t*>(elements) + unit;
      const uint32_t kept = (has_low ? 0u : *at & 0x0fu) | (has_high ? 0u : *at & 0xf0u);
      *at = static_cast<uint8_t>(kept | low | high << 4);
    } else if (bits == 8) {
      uint8_t* at = reinterpret_cast<uint8_t*>(elements) + 2 * unit;
      if (has_low) at[0] = static_cast<uint8_t>(low);
      if (has_high) at[1] = static_cast<uint8_t>(high);
    } else {
      uint16_t* at = reinterpret_cast<uint16_t*>(elements) + 2 * unit;
      if (has_low) at[0] = static_cast<uint16_t>(low);
      if (has_high) at[1] = static_cast<uint16_t>(high);
    }
  }
}

template <int E, bool kWide>
__global__ void AppendKernel(AppendLaunch a) {
  constexpr int kDim = 64 * E;
  __shared__ uint16_t k_codes[kBatch][kDim + 2], v_codes[kBatch][kDim + 2];
  __shared__ float decoded[kBatch][kDim];
  // In this order: attention and selection begin while this kernel runs, and read what was complete
  // before it (`settled`, args.h).
  ptx::GridWait();
  ptx::GridTrigger();

  const int begin = a.groups ? a.groups[blockIdx.x] : blockIdx.x;
  const int end = a.groups ? a.groups[blockIdx.x + 1] : begin + 1;
  const int slot = a.seq[begin];
  if (slot < 0) return;
  const DeviceView& view = a.view;
  const DeviceCodec& codec = view.codec;
  const int kv_head = blockIdx.y, group = a.q_heads / view.kv_heads;
  const int block = a.pos[begin] / kBlockTokens, place = a.pos[begin] % kBlockTokens;
  const int page = view.Page(slot, kv_head, block);
  std::byte* slice = view.Slice(kv_head, page);
  uint16_t* stats = view.Stats(kv_head, page);
  if (stats && (place + end - begin) % view.logical_tokens != 0) stats = nullptr;  // not full yet

  const int warp = threadIdx.x / 32, warps = blockDim.x / 32, channel = threadIdx.x;
  float low = INFINITY, high = -INFINITY;
  if (stats && channel < kDim)
    for (int t = place / view.logical_tokens * view.logical_tokens; t < place; ++t) {
      const float key = DecodeK(codec, slice, t, channel);
      low = fminf(low, key);
      high = fmaxf(high, key);
    }
  for (int batch = begin; batch < end; batch += kBatch) {
    const int count = min(kBatch, end - batch);
    for (int work = warp; work < count * (group + 2); work += warps) {
      const int t = work / (group + 2), what = work % (group + 2), row = batch + t;
      const int64_t offset = row * a.stride;
      const float* rope = a.rope + static_cast<int64_t>(a.rope_by_row ? row : a.pos[row]) * kDim;
      const int token = place + row - begin;
      if (what < group) {
        const int column = (kv_head * group + what) * kDim;
        Head<E> q = Load<E, kWide>(a, offset, column);
        Norm(&q, a.q_norm, a.norm_eps);
        Rotate(&q, rope);
        if (codec.k_bits == 4) Transform(&q);
        Store<E, kWide>(a, offset, column, q);
      } else if (what == group) {
        const int column = (a.q_heads + kv_head) * kDim;
        Head<E> k = Load<E, kWide>(a, offset, column);
        Norm(&k, a.k_norm, a.norm_eps);
        Rotate(&k, rope);
        if (codec.k_bits == 4) Transform(&k);
        if (kWide) Store<E, kWide>(a, offset, column, k);
        Encode(k, codec.k_bits, slice + codec.k_scale_offset, token, k_codes[t],
               stats ? decoded[t] : nullptr);
      } else {
        const int column = (a.q_heads + view.kv_heads + kv_head) * kDim;
        const Head<E> v = Load<E, kWide>(a, offset, column);
        Encode(v, codec.v_bits, slice + codec.v_scale_offset, token, v_codes[t], nullptr);
      }
    }
    __syncthreads();
    const int first = place + batch - begin;
    WriteK(k_codes[0], kDim + 2, first, count, kDim, codec.k_bits, slice);
    WriteV(v_codes[0], kDim + 2, first, count, kDim, codec.v_bits, slice + codec.v_offset);
    if (stats && channel < kDim) {
      for (int t = 0; t < count; ++t) {
        low = fminf(low, decoded[t][channel]);
        high = fmaxf(high, decoded[t][channel]);
      }
    }
    __syncthreads();
  }
  if (stats == nullptr) return;
  const int logical_page = place / view.logical_tokens;
  if (view.stats_bits == 16) {
    uint16_t* to = stats + logical_page * 2 * kDim;
    if (channel < kDim)
      to[channel] = FloatToBf16Down(low), to[kDim + channel] = FloatToBf16Up(high);
    return;
  }
  if (channel < kDim) decoded[0][channel] = low, decoded[1][channel] = high;
  __syncthreads();
  const int pages = kBlockTokens / view.logical_tokens, side = 2 * logical_page + warp;
  if (warp < 2)
    EncodeSide<E>(decoded[warp], warp == 1, reinterpret_cast<uint8_t*>(stats) + side * kDim,
                  stats + pages * kDim + 2 * side);
}

template <int E>
cudaError_t Launch(const AppendLaunch& a, dim3 grid, int threads, cudaStream_t stream) {
  return LaunchDependent(a.wide ? AppendKernel<E, true> : AppendKernel<E, false>, grid, threads, 0,
                         stream, Facts().capability >= 90, a);
}

}  // namespace

cudaError_t LaunchAppend(const AppendLaunch& args, cudaStream_t stream) {
  const int groups = args.groups ? args.num_groups : args.rows;
  if (groups == 0) return cudaSuccess;
  const dim3 grid(groups, args.view.kv_heads);
  if (args.view.codec.dim == 64) return Launch<1>(args, grid, args.groups ? 256 : 128, stream);
  if (args.view.codec.dim == 128) return Launch<2>(args, grid, args.groups ? 256 : 192, stream);
  return cudaErrorInvalidValue;
}

}  // namespace lserve::cuda
