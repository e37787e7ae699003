// A Device that passes everything on to another and, where asked to, measures each op by itself:
// marks around it and a wait, so that ops do not overlap and what the host does between them does
// not count. For step_bench; recorded graphs cannot be measured this way.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "kernels/device.h"

namespace lserve {

class TimedDevice : public Device {
 public:
  using Clock = std::chrono::steady_clock;
  explicit TimedDevice(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  // Device milliseconds by op since the last call; ops are measured until Stop.
  void Start() {
    measuring_ = true;
    ms_.clear();
  }
  std::map<std::string, double> Stop() {
    measuring_ = false;
    return std::move(ms_);
  }
  // When the newest step's first kernel was asked for: what lies before is planning and uploads.
  Clock::time_point first_kernel() const { return first_kernel_; }

  std::byte* Allocate(size_t bytes) override { return device_->Allocate(bytes); }
  void Free(std::byte* data, size_t bytes) override { device_->Free(data, bytes); }
  std::byte* AllocateHost(size_t bytes) override { return device_->AllocateHost(bytes); }
  void FreeHost(std::byte* data, size_t bytes) override { device_->FreeHost(data, bytes); }
  void CopyIn(std::byte* to, const void* from, size_t bytes) override {
    Time("copies in", [&] { device_->CopyIn(to, from, bytes); });
  }
  void CopyOut(void* to, const std::byte* from, size_t bytes) override {
    device_->CopyOut(to, from, bytes);
  }
  void CopyIn(std::span<const Piece> to, const std::byte* from) override {
    device_->CopyIn(to, from);
  }
  void CopyOut(std::byte* to, std::span<const Piece> from) override { device_->CopyOut(to, from); }
  void Fill(std::byte* to, std::byte value, size_t bytes) override {
    device_->Fill(to, value, bytes);
  }
  DeviceInfo info() const override { return device_->info(); }
  Status Supports(const KvCodec& codec, int group) const override {
    return device_->Supports(codec, group);
  }
  int PrefillTile(int dim, int group) const override { return device_->PrefillTile(dim, group); }
  size_t PrefillWorkspace(int num_tiles, const PlanShape& shape) const override {
    return device_->PrefillWorkspace(num_tiles, shape);
  }
  size_t DecodeWorkspace(int num_tiles, const PlanShape& shape, int dim) const override {
    return device_->DecodeWorkspace(num_tiles, shape, dim);
  }
  size_t SelectWorkspace(int num_rows, int q_heads, int max_blocks,
                         PageScore score) const override {
    return device_->SelectWorkspace(num_rows, q_heads, max_blocks, score);
  }
  size_t CandidateWorkspace(int num_asks, int cols) const override {
    return device_->CandidateWorkspace(num_asks, cols);
  }

  void Embed(const uint16_t* table, const int32_t* ids, int rows, int cols, float* out) override {
    Time("other", [&] { device_->Embed(table, ids, rows, cols, out); });
  }
  void RmsNorm(const float* x, const int32_t* from, const float* weight, float eps, int rows,
               int cols, void* out, bool wide) override {
    Time("other", [&] { device_->RmsNorm(x, from, weight, eps, rows, cols, out, wide); });
  }
  void Matmul(const MatmulArgs& args) override {
    Time("linear", [&] { device_->Matmul(args); });
  }
  void SwiGlu(const MatmulArgs& args, uint16_t* out) override {
    Time("linear", [&] { device_->SwiGlu(args, out); });
  }
  void Append(const cuda::AppendLaunch& args) override {
    Time("append", [&] { device_->Append(args); });
  }
  void Gather(const cuda::GatherLaunch& args) override {
    Time("gather", [&] { device_->Gather(args); });
  }
  void Select(const cuda::SelectLaunch& args) override {
    Time("decode rows", [&] { device_->Select(args); });
  }
  void DecodePlan(const cuda::DecodePlanLaunch& args) override {
    Time("decode rows", [&] { device_->DecodePlan(args); });
  }
  void Prefill(const cuda::PrefillArgs& args) override {
    Time("attention", [&] { device_->Prefill(args); });
  }
  void Decode(const cuda::DecodeArgs& args) override {
    Time("decode rows", [&] { device_->Decode(args); });
  }
  void Argmax(const float* logits, int rows, int cols, int32_t* best) override {
    Time("other", [&] { device_->Argmax(logits, rows, cols, best); });
  }
  void Candidates(const cuda::CandidateLaunch& args) override {
    Time("candidates", [&] { device_->Candidates(args); });
  }
  void ToBf16(const float* from, int64_t count, uint16_t* to) override {
    device_->ToBf16(from, count, to);
  }
  void ToFloat(const uint16_t* from, int64_t count, float* to) override {
    device_->ToFloat(from, count, to);
  }
  void SiluMulWide(const float* gate, const float* up, int64_t count, float* out) override {
    device_->SiluMulWide(gate, up, count, out);
  }
  void FillNormal(uint16_t* out, int64_t count, float deviation, uint64_t seed) override {
    device_->FillNormal(out, count, deviation, seed);
  }
  void BeginGraph() override { device_->BeginGraph(); }
  int EndGraph() override { return device_->EndGraph(); }
  void RunGraph(int graph) override { device_->RunGraph(graph); }
  Status Synchronize() override { return device_->Synchronize(); }
  void Mark(int i) override {
    if (i == 0) first_kernel_ = Clock::now();
    device_->Mark(i);
  }
  double Elapsed(int begin, int end) override { return device_->Elapsed(begin, end); }

 private:
  template <class Op>
  void Time(const char* name, const Op& op) {
    constexpr int kBegin = 62, kEnd = 63;  // marks that nobody else uses
    if (!measuring_) return op();
    device_->Mark(kBegin);
    op();
    device_->Mark(kEnd);
    ms_[name] += device_->Elapsed(kBegin, kEnd);
  }

  std::unique_ptr<Device> device_;
  bool measuring_ = false;
  std::map<std::string, double> ms_;
  Clock::time_point first_kernel_;
};

}  // namespace lserve
