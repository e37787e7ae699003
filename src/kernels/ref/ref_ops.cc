#include "kernels/ref/ref_ops.h"

namespace lserve {
namespace {

class RefOps : public Ops {
 public:
  explicit RefOps(ThreadPool* pool) : pool_(pool) {}

  std::string_view name() const override { return "ref"; }
  Status SupportsKv(const KvCodec&, int) const override { return Ok(); }
  int PrefillTile(int) const override { return 64; }

  Result<std::unique_ptr<Weight>> Prepare(const TensorView& tensor, bool to_bf16) override {
    return ref::Prepare(tensor, to_bf16);
  }
  void Embed(const Weight& table, std::span<const int32_t> ids, Mat out) override {
    ref::Embed(table, ids, out, pool_);
  }
  void RmsNorm(Mat x, const float* weight, float eps, Mat out) override {
    ref::RmsNorm(x, weight, eps, out, pool_);
  }
  void Linear(Mat x, std::span<const LinearOutput> outputs) override {
    ref::Linear(x, outputs, pool_);
  }
  void SiluMul(Mat gate, Mat up, Mat out) override { ref::SiluMul(gate, up, out, pool_); }
  void Append(const AppendArgs& args) override { ref::Append(args, pool_); }
  void Select(const SelectArgs& args) override { ref::Select(args, pool_); }
  void Attention(const AttentionArgs& args) override { ref::Attention(args, pool_); }

 private:
  ThreadPool* pool_;
};

}  // namespace

std::unique_ptr<Ops> MakeRefOps(ThreadPool* pool) { return std::make_unique<RefOps>(pool); }

}  // namespace lserve
