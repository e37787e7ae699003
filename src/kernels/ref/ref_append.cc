#include <vector>

#include "kernels/ref/ref_ops.h"
#include "plan/hadamard.h"

namespace lserve::ref {
namespace {

// Each result is rounded to float once, so that it does not depend on fused multiplies.
void Rotate(float* head, const float* rope, int dim) {
  const int half = dim / 2;
  for (int i = 0; i < half; ++i) {
    const double x1 = head[i], x2 = head[half + i], c = rope[i], s = rope[half + i];
    head[i] = static_cast<float>(x1 * c - x2 * s);
    head[half + i] = static_cast<float>(x2 * c + x1 * s);
  }
}

}  // namespace

void Append(const AppendArgs& args, ThreadPool* pool) {
  const KvView& view = args.view;
  const KvCodec& codec = view.codec;
  const int dim = codec.dim(), tokens = args.k.rows;
  const int q_heads = args.q.cols / dim, kv_heads = args.k.cols / dim;
  CHECK(args.q.cols == q_heads * dim && args.k.cols == kv_heads * dim &&
        args.v.cols == args.k.cols);
  CHECK(args.q.rows == tokens && args.v.rows == tokens && args.rope.rows == tokens);
  CHECK(args.rope.cols == dim && view.heads->num_heads() == kv_heads);
  CHECK(static_cast<int>(args.seq.size()) == tokens && static_cast<int>(args.pos.size()) == tokens);

  pool->ParallelFor(tokens, [&](int64_t index, int) {
    const int t = static_cast<int>(index);
    for (int h = 0; h < q_heads; ++h) {
      Rotate(args.q.Row(t) + h * dim, args.rope.Row(t), dim);
      if (TransformsKeys(codec)) HadamardTransform(args.q.Row(t) + h * dim, dim);
    }
  });
  // Heads are independent: the tokens of one share slices.
  pool->ParallelFor(kv_heads, [&](int64_t index, int) {
    const int h = static_cast<int>(index);
    for (int t = 0; t < tokens; ++t) {
      float* k = args.k.Row(t) + h * dim;
      Rotate(k, args.rope.Row(t), dim);
      if (TransformsKeys(codec)) HadamardTransform(k, dim);
      const int seq = args.seq[static_cast<size_t>(t)], pos = args.pos[static_cast<size_t>(t)];
      const int block = pos / kBlockTokens, token = pos % kBlockTokens;
      std::byte* slice = view.Slice(seq, h, block);
      CHECK(slice != nullptr);
      codec.EncodeK(k, token, slice);
      codec.EncodeV(args.v.Row(t) + h * dim, token, slice);
      if (uint16_t* stats = view.Stats(seq, h, block); stats && view.stats.Completes(token))
        view.stats.Store(codec, slice, token / view.stats.logical_tokens, stats);
    }
  });
}

}  // namespace lserve::ref
