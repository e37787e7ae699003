#include "kernels/cpu/cpu_ops.h"

#include <algorithm>

#include "kernels/cpu/packed_weight.h"

namespace lserve {
namespace {

class CpuOps : public Ops {
 public:
  explicit CpuOps(ThreadPool* pool) : pool_(pool), linear_(pool), select_(pool), attention_(pool) {}

  std::string_view name() const override { return "cpu"; }

  Status SupportsKv(const KvCodec& codec, int) const override {
    if (codec.k_type() == KvType::kKv32 || codec.v_type() == KvType::kKv32)
      return Unsupported("backend cpu: --kv kv32 (use --backend ref, or kv16)");
    if (codec.dim() % 16 != 0)
      return Unsupported("backend cpu: head dimension {} (must be a multiple of 16)", codec.dim());
    return Ok();
  }

  // About 200 rows: enough to pay for decoding a block, few enough that their results stay in the
  // second-level cache.
  int PrefillTile(int group) const override { return group <= 4 ? 64 : 32; }

  Result<std::unique_ptr<Weight>> Prepare(const TensorView& tensor, bool to_bf16) override {
    return std::unique_ptr<Weight>(new PackedWeight(tensor, to_bf16, pool_));
  }

  void Embed(const Weight& table, std::span<const int32_t> ids, Mat out) override {
    const PackedWeight& packed = static_cast<const PackedWeight&>(table);
    for (size_t i = 0; i < ids.size(); ++i) packed.UnpackRow(ids[i], out.Row(static_cast<int>(i)));
  }

  void RmsNorm(Mat x, const float* weight, float eps, Mat out) override {
    Rows(x.rows, [&](int r) { kernels_.rms_norm_row(x.Row(r), weight, eps, x.cols, out.Row(r)); });
  }

  void Linear(Mat x, std::span<const LinearOutput> outputs) override { linear_.Run(x, outputs); }

  void SiluMul(Mat gate, Mat up, Mat out) override {
    Rows(gate.rows,
         [&](int r) { kernels_.silu_mul_row(gate.Row(r), up.Row(r), gate.cols, out.Row(r)); });
  }

  void Append(const AppendArgs& args) override { cpu::Append(args, pool_); }
  void Select(const SelectArgs& args) override { select_.Run(args); }
  void Attention(const AttentionArgs& args) override { attention_.Run(args); }

 private:
  template <typename F>
  void Rows(int rows, F f) {
    constexpr int kChunk = 16;
    pool_->ParallelFor((rows + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
      const int begin = static_cast<int>(chunk) * kChunk, end = std::min(rows, begin + kChunk);
      for (int r = begin; r < end; ++r) f(r);
    });
  }

  ThreadPool* pool_;
  const CpuKernels& kernels_ = BestKernels();
  cpu::LinearOp linear_;
  cpu::SelectOp select_;
  cpu::AttentionOp attention_;
};

}  // namespace

std::unique_ptr<Ops> MakeCpuOps(ThreadPool* pool) { return std::make_unique<CpuOps>(pool); }

}  // namespace lserve
