// The producer warpgroup of the Hopper prefill kernel: one thread takes work items, one copies.
// Both wait with a limit (ptx/mbarrier.cuh).
#pragma once

#include "kernels/cuda/attn/prefill_sm90_shared.cuh"
#include "kernels/cuda/attn/prefill_softmax.cuh"
#include "kernels/cuda/ptx/mbarrier.cuh"
#include "kernels/cuda/ptx/tma.cuh"

namespace lserve::cuda::sm90 {

// The next item is taken when about so many runs of an item, and blocks of the last of them, are
// left: late enough to leave items to idle CTAs, early enough to hide three dependent loads.
inline constexpr int kAskRuns = 4, kAskBlocks = 8;

template <class C>
__device__ void Schedule(Shared<C>& s, const KernelArgs& args) {
  Ring<kQBuffers> q;
  for (uint32_t round = 0;; q.Next(), ++round) {
    if (round > 0) ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.wanted), (round - 1) % 2);
    const int item = atomicAdd(&args.queue->next, 1);
    ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.q_empty[q.index]), q.parity ^ 1);
    Work& work = s.work[q.index];
    const bool some = item < args.num_items;
    if (some) {
      const PrefillPiece piece = args.queue->pieces[item / args.heads_per_tile];
      const int head = item % args.heads_per_tile;
      Tile tile = args.tiles[piece.tile];
      tile.run_end = piece.run + 1;
      work.tile = tile;
      work.newest = args.runs[piece.run];
      work.newest.count = piece.count;
      work.blocks = piece.blocks;
      work.head = tile.head + head;
      work.part = piece.part < 0 ? -1 : piece.part * args.heads_per_tile + head;
    } else {
      work.head = -1;
    }
    ptx::BarrierArrive(ptx::SharedAddress(&s.work_full[q.index]));
    if (!some) return;
  }
}

template <class C>
__device__ void Produce(Shared<C>& s, const KernelArgs& args, const CUtensorMap& q_map,
                        const CUtensorMap& k_map, const CUtensorMap& v_map) {
  Ring<kQBuffers> q;
  Ring<C::kStages> kv;
  for (;; q.Next()) {
    ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.work_full[q.index]), q.parity);
    const uint32_t q_full = ptx::SharedAddress(&s.q_full[q.index]);
    const Work& work = s.work[q.index];
    const int head = work.head;
    if (head < 0) {
      ptx::BarrierArrive(q_full);
      // Stays until all items are done, so that somebody notices if one never is.
      for (int i = 1; i < kQBuffers; ++i) {
        q.Next();
        ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.q_empty[q.index]), q.parity ^ 1);
      }
      return;
    }
    const int kv_head =
        ScratchHead(head / args.group, args.first_kv_head, args.kept_heads, args.kept_first);
    ptx::BarrierArriveExpect(q_full, C::kQBytes);
#pragma unroll
    for (int strip = 0; strip < C::kStrips; ++strip)
      ptx::TmaLoad(ptx::SharedAddress(s.q[q.index] + strip * C::kQStrip), &q_map, q_full, 0,
                   head * C::kStrips + strip, work.tile.q_begin);

    // Two slices a stage, from the newest back; the last stage of an odd list has one and a slice
    // that lies nowhere and reads as zero. Pairs by position: only blocks 2j and 2j + 1 share a
    // stage, so that the same keys meet a query in the same order wherever its tile and list end.
    const int run_begin = work.tile.run_begin;
    int run_index = work.tile.run_end - 1;
    Run run = work.newest;
    Run before = run_index > run_begin ? args.runs[run_index - 1] : Run{};
    int blocks = work.blocks;
    bool asked = false;
    for (bool last = false; !last; kv.Next()) {
      Stage stage;
      stage.masked = 0;
#pragma unroll
      for (int slice = 1; slice >= 0; --slice) {
        const int block = run.first + run.count - 1;
        const bool partner =
            slice == 1 ? block % 2 == 1
                       : stage.first[1] == kNowhere || stage.first[1] == (block + 1) * kBlockTokens;
        if (last || (args.pairs_by_position && !partner)) {
          stage.first[slice] = kNowhere;
          stage.masked = 1;
          continue;
        }
        stage.first[slice] = block * kBlockTokens;
        stage.masked |= run.masked;
        last = --blocks == 0;
        if (--run.count == 0) {
          last |= --run_index < run_begin;
          run = before;
          if (run_index > run_begin) before = args.runs[run_index - 1];
        }
      }
      stage.last = last;
      if (!asked && (last || blocks <= kAskBlocks ||
                     (run_index - run_begin <= kAskRuns && run.count <= kAskBlocks))) {
        asked = true;
        ptx::BarrierArrive(ptx::SharedAddress(&s.wanted));
      }
      ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.k_empty[kv.index]), kv.parity ^ 1);
      s.stages[kv.index] = stage;
      const uint32_t k_full = ptx::SharedAddress(&s.k_full[kv.index]);
      ptx::BarrierArriveExpect(k_full, C::kKvBytes);
#pragma unroll
      for (int slice = 0; slice < 2; ++slice)
#pragma unroll
        for (int strip = 0; strip < C::kStrips; ++strip)
          ptx::TmaLoad(
              ptx::SharedAddress(s.k[kv.index] + strip * C::kKvStrip + slice * kSliceStrip), &k_map,
              k_full, 0, stage.first[slice], strip, kv_head);
      ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.v_empty[kv.index]), kv.parity ^ 1);
      const uint32_t v_full = ptx::SharedAddress(&s.v_full[kv.index]);
      ptx::BarrierArriveExpect(v_full, C::kKvBytes);
#pragma unroll
      for (int slice = 0; slice < 2; ++slice)
        ptx::TmaLoad(ptx::SharedAddress(s.v[kv.index] + slice * kSliceStrip * C::kStrips), &v_map,
                     v_full, 0, stage.first[slice], 0, kv_head);
    }
  }
}

}  // namespace lserve::cuda::sm90
