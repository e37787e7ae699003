#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "plan/hadamard.h"

namespace lserve::cpu {

// The unit of work is one KV head and the tokens of one block: codes of neighbouring tokens share
// bytes, and the last of a logical page makes its statistics.
void Append(const AppendArgs& args, ThreadPool* pool) {
  const CpuKernels& kernels = BestKernels();
  const KvCodec& codec = args.view.codec;
  const int dim = codec.dim(), tokens = static_cast<int>(args.pos.size());
  const int kv_heads = args.view.heads->num_heads(), q_heads = args.q.cols / dim;
  struct Group {
    int begin, end;
  };
  std::vector<Group> groups;
  for (int t = 0; t < tokens; ++t) {
    const size_t i = static_cast<size_t>(t);
    if (t == 0 || args.seq[i] != args.seq[i - 1] ||
        args.pos[i] / kBlockTokens != args.pos[i - 1] / kBlockTokens)
      groups.push_back({t, t});
    groups.back().end = t + 1;
  }
  const auto run = [&](int64_t index, int) {
    const Group& group = groups[static_cast<size_t>(index)];
    for (int t = group.begin; t < group.end; ++t) {
      const float* rope = args.rope.Row(t);
      kernels.rotate_row(args.q.Row(t), rope, q_heads, dim);
      kernels.rotate_row(args.k.Row(t), rope, kv_heads, dim);
      if (TransformsKeys(codec)) {
        for (int h = 0; h < q_heads; ++h) HadamardTransform(args.q.Row(t) + h * dim, dim);
        for (int h = 0; h < kv_heads; ++h) HadamardTransform(args.k.Row(t) + h * dim, dim);
      }
      const size_t i = static_cast<size_t>(t);
      const int block = args.pos[i] / kBlockTokens, place = args.pos[i] % kBlockTokens;
      for (int h = 0; h < kv_heads; ++h) {
        std::byte* slice = args.view.Slice(args.seq[i], h, block);
        CHECK(slice != nullptr);
        codec.EncodeK(args.k.Row(t) + h * dim, place, slice);
        codec.EncodeV(args.v.Row(t) + h * dim, place, slice);
        const KeyStats& layout = args.view.stats;
        if (uint16_t* stats = args.view.Stats(args.seq[i], h, block);
            stats && layout.Completes(place))
          layout.Store(codec, slice, place / layout.logical_tokens, stats);
      }
    }
  };
  pool->ParallelFor(static_cast<int64_t>(groups.size()), run);
}

}  // namespace lserve::cpu
