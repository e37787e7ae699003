// The consumer warpgroups of the Hopper prefill kernel: products and softmax. sm_90a only.
#pragma once

#include "kernels/cuda/attn/prefill_sm90_shared.cuh"
#include "kernels/cuda/attn/prefill_softmax.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/mbarrier.cuh"
#include "kernels/cuda/ptx/tma.cuh"
#include "kernels/cuda/ptx/wgmma.cuh"

namespace lserve::cuda::sm90 {

// s = Q K^T, asynchronously.
template <class C>
__device__ __forceinline__ void IssueScores(float (&s)[64], uint64_t q, uint64_t k) {
#pragma unroll
  for (int i = 0; i < C::kDim / 16; ++i)
    ptx::WgmmaShared(s, ptx::Advance(q, i / 4 * C::kQStrip + i % 4 * 32),
                     ptx::Advance(k, i / 4 * C::kKvStrip + i % 4 * 32), i != 0);
  ptx::WgmmaCommit();
}

// o += P V, asynchronously.
template <class C>
__device__ __forceinline__ void IssueValues(float (&o)[C::kDim / 2], const uint32_t (&p)[32],
                                            uint64_t v) {
#pragma unroll
  for (int i = 0; i < kStageTokens / 16; ++i)
    ptx::WgmmaRegisters(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3],
                        ptx::Advance(v, i / 4 * kSliceStrip * C::kStrips + i % 4 * 16 * kRowBytes));
  ptx::WgmmaCommit();
}

// The accumulator's registers of 16 columns are, rounded, the A operand's of 16 summed indices.
__device__ __forceinline__ void PackScores(const float (&s)[64], uint32_t (&p)[32]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) p[i] = PackBf16(s[2 * i], s[2 * i + 1]);
}

// Visible (plan/tile.h) without branches, by offsets into each slice.
__device__ __forceinline__ void Mask(float (&s)[64], const Stage& stage, const Tile& tile,
                                     int q_pos) {
#pragma unroll
  for (int half = 0; half < 4; ++half) {  // of a slice: the thread's one row
    const int first = stage.first[half / 2] + static_cast<int>(threadIdx.x) % 4 * 2;
    const int query = q_pos + half % 2 * 8 - first;
    const int sink = tile.sink_len - first, window = query - tile.window_len;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int key = i / 2 * 8 + i % 2;
      const bool visible = (key <= query) & ((key < sink) | (key > window));
      float& x = s[half / 2 * 32 + i / 2 * 4 + half % 2 * 2 + i % 2];
      x = visible ? x : -INFINITY;
    }
  }
}

// Normalises a warp's 16 rows, stages them in its own rows of the Q buffer and writes those that
// the tile has, 16 bytes a lane. `done` is called when the buffer and `work` may be overwritten.
template <class C, class Done>
__device__ __forceinline__ void StoreOutput(const float (&o)[C::kDim / 2], const SoftmaxRows& rows,
                                            const Work& work, uint8_t* q, int warp_row,
                                            const KernelArgs& args, const Done& done) {
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4;
  const int64_t first = work.tile.q_begin + warp_row;
  const int valid = work.tile.q_len - warp_row;
  uint8_t* stage = q + warp_row * kRowBytes;
  float lse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = QuadSum(rows.sum[r]);
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    lse[r] = LogSum(rows.max[r], sum, args.scale);
#pragma unroll
    for (int g = 0; g < C::kDim / 8; ++g)
      *reinterpret_cast<uint32_t*>(stage + g / 8 * C::kQStrip + (row + 8 * r) * kRowBytes +
                                   ((g % 8) ^ row) * 16 + lane % 4 * 4) =
          PackBf16(o[4 * g + 2 * r] * inverse, o[4 * g + 2 * r + 1] * inverse);
  }
  __syncwarp();
  constexpr int kChunks = C::kDim / 8;  // of 16 bytes a row
  constexpr int kStep = 32 / kChunks;   // rows of a warp's access
  const int chunk = lane % kChunks;
  uint4 values[16 / kStep];
#pragma unroll
  for (int i = 0; i < 16 / kStep; ++i) {
    const int r = i * kStep + lane / kChunks;
    values[i] = *reinterpret_cast<const uint4*>(stage + chunk / 8 * C::kQStrip + r * kRowBytes +
                                                ((chunk % 8) ^ (r % 8)) * 16);
  }
  // A part's rows lie elsewhere and are not the model's. Selected, not branched to: a branch around
  // the accumulators makes the assembler serialise the products.
  const bool whole = work.part < 0;
  const int64_t first_part = int64_t{work.part} * args.parts.rows + warp_row;
  const int64_t stride = whole ? args.out_stride : C::kDim;
  Bf16* out = (whole ? args.out + first * stride + work.head * C::kDim
                     : args.parts.out + first_part * stride) +
              chunk * 8;
  const int64_t lse_stride = whole ? args.num_q_heads : 1;
  float* lse_out = !whole                ? args.parts.lse + first_part
                   : args.lse == nullptr ? nullptr
                                         : args.lse + first * lse_stride + work.head;
  done();
#pragma unroll
  for (int i = 0; i < 16 / kStep; ++i) {
    const int r = i * kStep + lane / kChunks;
    if (r < valid) *reinterpret_cast<uint4*>(out + r * stride) = values[i];
  }
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (lse_out != nullptr && lane % 4 == 0 && row + 8 * r < valid)
      lse_out[(row + 8 * r) * lse_stride] = lse[r];
}

template <class C>
__device__ void Consume(Shared<C>& sm, const KernelArgs& args) {
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const int group = thread / 128, lane = thread % 32;
  const int warp_row = thread / 32 * 16;
  // Warpgroups take turns in issuing: barrier 1 + group is open when it is group's turn.
  const auto take_turn = [&] { ptx::NamedBarrierSync(1 + group, 256); };
  const auto pass_turn = [&] { ptx::NamedBarrierArrive(1 + (group + 1) % C::kConsumers, 256); };
  if (group == C::kConsumers - 1) ptx::NamedBarrierArrive(1, 256);
  const auto release = [&](uint64_t& barrier) {
    __syncwarp();
    if (lane == 0) ptx::BarrierArrive(ptx::SharedAddress(&barrier));
  };
  Ring<kQBuffers> q;
  Ring<C::kStages> k, v;
  const auto q_operand = [&] {
    return ptx::SwizzledOperand(ptx::SharedAddress(sm.q[q.index] + group * 64 * kRowBytes),
                                8 * kRowBytes, 0);
  };
  const auto k_operand = [&] {
    return ptx::SwizzledOperand(ptx::SharedAddress(sm.k[k.index]), 8 * kRowBytes, 0);
  };
  const auto v_operand = [&] {
    return ptx::SwizzledOperand(ptx::SharedAddress(sm.v[v.index]), 8 * kRowBytes, kSliceStrip);
  };
  const auto mask = [&](float(&s)[64], const Stage& stage) {
    const Tile& tile = sm.work[q.index].tile;
    Mask(s, stage, tile, tile.q_pos + warp_row + lane / 4);
  };
  float o[C::kDim / 2], s[64], rescale[2];
  uint32_t p[32];
  SoftmaxRows rows;
  const auto store = [&](int buffer, const SoftmaxRows& finished) {
    StoreOutput<C>(o, finished, sm.work[buffer], sm.q[buffer], warp_row, args, [&] {
      ptx::AsyncProxyFence();
      release(sm.q_empty[buffer]);
    });
  };

  ptx::BarrierWait(ptx::SharedAddress(&sm.q_full[q.index]), q.parity);
  if (sm.work[q.index].head < 0) return;
  ptx::BarrierWait(ptx::SharedAddress(&sm.k_full[k.index]), k.parity);
  Stage stage = sm.stages[k.index];
  ptx::WgmmaFence();
  IssueScores<C>(s, q_operand(), k_operand());
  ptx::WgmmaWait<0>();
  ptx::Pin(s);
  release(sm.k_empty[k.index]);
  k.Next();
  if (stage.masked) mask(s, stage);
  SoftmaxStep(s, args.scale, &rows, rescale);
  PackScores(s, p);
#pragma unroll
  for (float& x : o) x = 0.f;

  // One stream of stages through all items: the scores of an item's first stage are issued with the
  // values of its predecessor's last.
  for (;;) {
    const bool ends = stage.last;
    const int buffer = q.index;
    if (ends) {
      q.Next();
      ptx::BarrierWait(ptx::SharedAddress(&sm.q_full[q.index]), q.parity);
      if (sm.work[q.index].head < 0) {
        ptx::BarrierWait(ptx::SharedAddress(&sm.v_full[v.index]), v.parity);
        ptx::Pin(o);
        ptx::Pin(p);
        ptx::WgmmaFence();
        IssueValues<C>(o, p, v_operand());
        ptx::WgmmaWait<0>();
        ptx::Pin(o);
        ptx::NamedBarrierSync(8 + group, 128);  // all warps are past their products with this Q
        store(buffer, rows);
        return;
      }
    }
    ptx::BarrierWait(ptx::SharedAddress(&sm.k_full[k.index]), k.parity);
    stage = sm.stages[k.index];
    ptx::BarrierWait(ptx::SharedAddress(&sm.v_full[v.index]), v.parity);
    take_turn();
    ptx::Pin(o);
    ptx::Pin(p);
    ptx::WgmmaFence();
    IssueScores<C>(s, q_operand(), k_operand());
    IssueValues<C>(o, p, v_operand());
    pass_turn();
    ptx::WgmmaWait<1>();
    ptx::Pin(s);
    release(sm.k_empty[k.index]);
    k.Next();
    const SoftmaxRows finished = rows;
    if (ends) rows = SoftmaxRows{};
    if (stage.masked) mask(s, stage);
    SoftmaxStep(s, args.scale, &rows, rescale);
    // The assembler would move the wait up to the scores' wait, before the softmax, which is to run
    // beside the products with V; it does not move it across a store of what the softmax ends in.
    *static_cast<volatile float*>(&sm.order[thread]) = rows.sum[0] + rows.sum[1];
    ptx::WgmmaWait<0>();
    ptx::Pin(o);
    release(sm.v_empty[v.index]);
    v.Next();
    PackScores(s, p);
    if (ends) {
      // All warps of the group are past their turn, hence past their products with this Q.
      store(buffer, finished);
#pragma unroll
      for (float& x : o) x = 0.f;
    } else if (__any_sync(0xffffffffu, rescale[0] != 1.f || rescale[1] != 1.f)) {
#pragma unroll
      for (int i = 0; i < C::kDim / 2; ++i) o[i] *= rescale[i % 4 / 2];
    }
  }
}

}  // namespace lserve::cuda::sm90
