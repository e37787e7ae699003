// The Device of the CUDA backend: one stream, the kernels' launchers, cuBLASLt, graphs.
#include <cuda_runtime.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/gemm/few_rows.h"
#include "kernels/cuda/gemm/matmul.h"
#include "kernels/cuda/launch.h"
#include "kernels/device.h"
#include "kernels/device_abi.h"

namespace lserve::cuda {
namespace {

constexpr int kMarks = 64;
constexpr size_t kBounce = size_t{4} << 20;

class CudaDevice : public Device {
 public:
  // An empty string, or why not.
  std::string Open(int index);
  ~CudaDevice() override;

  DeviceInfo info() const override {
    Bind();
    DeviceInfo out = info_;
    cudaMemGetInfo(&out.free_bytes, &out.total_bytes);
    return out;
  }

  Status Supports(const KvCodec& codec, int group) const override {
    if (codec.k_type() == KvType::kKv32 || codec.v_type() == KvType::kKv32)
      return Unsupported("backend cuda: --kv kv32 (use kv16, kv8 or kv4, or --backend ref)");
    if (codec.dim() != 64 && codec.dim() != 128)
      return Unsupported(
          "backend cuda: head dimension {} (there are kernels for 64 and 128; use "
          "--backend cpu)",
          codec.dim());
    if (group > 64)
      return Unsupported("backend cuda: {} query heads a KV head (at most 64; use --backend cpu)",
                         group);
    return Ok();
  }

  int PrefillTile(int dim, int group) const override { return cuda::PrefillTile(dim, group); }
  size_t PrefillWorkspace(int num_tiles, const PlanShape& shape) const override {
    return cuda::PrefillWorkspace(num_tiles, shape);
  }
  size_t DecodeWorkspace(int num_tiles, const PlanShape& shape, int dim) const override {
    return cuda::DecodeWorkspace(num_tiles, shape, dim);
  }
  size_t SelectWorkspace(int num_rows, int q_heads, int max_blocks,
                         PageScore score) const override {
    return cuda::SelectWorkspace(num_rows, q_heads, max_blocks, score);
  }
  size_t CandidateWorkspace(int num_asks, int cols) const override {
    return cuda::CandidateWorkspace(num_asks, cols);
  }

  std::byte* Allocate(size_t bytes) override {
    Bind();
    void* data = nullptr;
    if (cudaMalloc(&data, bytes) != cudaSuccess) {
      cudaGetLastError();  // not a failure of the device
      return nullptr;
    }
    Note("clearing new memory", cudaMemsetAsync(data, 0, bytes, stream_));
    return static_cast<std::byte*>(data);
  }
  void Free(std::byte* data, size_t) override { cudaFree(data); }
  std::byte* AllocateHost(size_t bytes) override {
    void* data = nullptr;
    if (cudaMallocHost(&data, bytes) != cudaSuccess) {
      cudaGetLastError();
      return nullptr;
    }
    locked_.push_back({static_cast<std::byte*>(data), bytes});
    return locked_.back().data;
  }
  void FreeHost(std::byte* data, size_t) override {
    std::erase_if(locked_, [&](const Piece& piece) { return piece.data == data; });
    if (stream_) cudaStreamSynchronize(stream_);
    cudaFreeHost(data);
  }
  void CopyIn(std::byte* to, const void* from, size_t bytes) override {
    if (!Ready() || bytes == 0) return;
    // From pageable memory the driver stages the bytes before it returns.
    Note("copy to the device", cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_));
  }
  void CopyOut(void* to, const std::byte* from, size_t bytes) override;
  void CopyIn(std::span<const Piece> to, const std::byte* from) override;
  void CopyOut(std::byte* to, std::span<const Piece> from) override;
  void Fill(std::byte* to, std::byte value, size_t bytes) override {
    if (Ready() && bytes > 0)
      Note("fill", cudaMemsetAsync(to, static_cast<int>(value), bytes, stream_));
  }

  void Embed(const uint16_t* table, const int32_t* ids, int rows, int cols, float* out) override {
    if (Ready()) Note("embed", LaunchEmbed(table, ids, rows, cols, out, stream_), {rows, cols});
  }
  void RmsNorm(const float* x, const int32_t* from, const float* weight, float eps, int rows,
               int cols, void* out, bool wide) override {
    if (Ready())
      Note("rms_norm", LaunchRmsNorm(x, from, weight, eps, rows, cols, out, wide, stream_),
           {rows, cols});
  }
  void Matmul(const MatmulArgs& args) override {
    if (!Ready()) return;
    if (SupportsFewRows(args, false))
      return Note("matmul", LaunchFewRows(args, false, stream_), {args.n, args.rows, args.cols});
    Note("matmul", cudaSuccess, {args.n, args.rows, args.cols});
    if (std::string failed = matmul_.Run(args, stream_); !failed.empty())
      failed_ = NewestLaunch() + ": " + failed;
  }
  void SwiGlu(const MatmulArgs& args, uint16_t* out) override {
    if (!Ready()) return;
    if (SupportsFewRows(args, true)) {
      MatmulArgs fused = args;
      fused.y = out;
      return Note("swiglu", LaunchFewRows(fused, true, stream_), {args.n, args.rows, args.cols});
    }
    Matmul(args);
    if (Ready())
      Note("silu_mul",
           LaunchSiluMul(static_cast<const uint16_t*>(args.y), args.n, args.rows / 2, out, stream_),
           {args.n, args.rows / 2});
  }
  void Append(const AppendLaunch& args) override {
    if (Ready())
      Note("append", LaunchAppend(args, stream_),
           {args.rows, args.q_heads, args.view.kv_heads, args.view.codec.dim});
  }
  void Gather(const GatherLaunch& args) override {
    if (Ready())
      Note("gather", LaunchGather(args, stream_),
           {args.num_ranges, args.max_blocks, args.view.codec.dim});
  }
  void Select(const SelectLaunch& args) override {
    if (Ready())
      Note("select", LaunchSelect(args, stream_),
           {args.num_rows, args.q_heads, args.max_blocks, args.view.codec.dim});
  }
  void DecodePlan(const DecodePlanLaunch& args) override {
    if (Ready())
      Note("decode plan", LaunchDecodePlan(args, stream_),
           {args.num_rows, args.layer_end - args.layer_begin});
  }
  void Prefill(const PrefillArgs& args) override {
    if (Ready())
      Note("prefill attention", LaunchPrefill(args, stream_),
           {args.num_tiles, args.shape.q_tile, args.kv_tokens, args.dim});
  }
  void Decode(const DecodeArgs& args) override {
    if (Ready())
      Note("decode attention", LaunchDecode(args, stream_),
           {args.num_tiles, args.max_blocks, args.view.codec.dim});
  }
  void Argmax(const float* logits, int rows, int cols, int32_t* best) override {
    if (Ready())
      Note("argmax", LaunchArgmax(logits, rows, cols, best_parts_, best, stream_), {rows, cols});
  }
  void Candidates(const CandidateLaunch& args) override {
    if (Ready()) Note("candidates", LaunchCandidates(args, stream_), {args.num_asks, args.cols});
  }
  void ToBf16(const float* from, int64_t count, uint16_t* to) override {
    if (Ready()) Note("to bf16", LaunchToBf16(from, count, to, stream_), {count});
  }
  void ToFloat(const uint16_t* from, int64_t count, float* to) override {
    if (Ready()) Note("to float", LaunchToFloat(from, count, to, stream_), {count});
  }
  void SiluMulWide(const float* gate, const float* up, int64_t count, float* out) override {
    if (Ready()) Note("silu_mul", LaunchSiluMulWide(gate, up, count, out, stream_), {count});
  }
  void FillNormal(uint16_t* out, int64_t count, float deviation, uint64_t seed) override {
    if (Ready()) Note("fill", LaunchFillNormal(out, count, deviation, seed, stream_), {count});
  }

  void BeginGraph() override {
    if (Ready())
      Note("graph capture", cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  }
  int EndGraph() override;
  void RunGraph(int graph) override {
    if (Ready())
      Note("recorded decode step", cudaGraphLaunch(graphs_[static_cast<size_t>(graph)], stream_),
           {graph});
  }

  Status Synchronize() override {
    if (Ready()) Note("the device's work", cudaStreamSynchronize(stream_));
    return failed_.empty() ? Ok() : Internal("backend cuda: {}", failed_);
  }
  void Mark(int i) override {
    if (Ready()) Note("event", cudaEventRecord(marks_[i], stream_));
  }
  double Elapsed(int begin, int end) override {
    float ms = 0;
    if (Ready()) Note("event", cudaEventSynchronize(marks_[end]));
    if (Ready()) Note("event", cudaEventElapsedTime(&ms, marks_[begin], marks_[end]));
    return ms;
  }

 private:
  // The runtime's current device is each thread's own, 0 at first, and the engine's thread is not
  // the one that opened this.
  void Bind() const {
    thread_local int bound = -1;
    if (bound == index_) return;
    cudaSetDevice(index_);
    bound = index_;
  }
  bool Ready() const {
    Bind();
    return failed_.empty();
  }
  // In memory of AllocateHost.
  bool Locked(const std::byte* data) const {
    return std::any_of(locked_.begin(), locked_.end(), [&](const Piece& piece) {
      return data >= piece.data && data < piece.data + piece.bytes;
    });
  }
  using Shape = std::initializer_list<int64_t>;
  // Of a launch.
  void Note(const char* op, cudaError_t error, Shape shape) {
    newest_.op = op;
    newest_.dims = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), newest_.shape);
    if (error != cudaSuccess && failed_.empty())
      failed_ = NewestLaunch() + ": " + cudaGetErrorString(error);
  }
  // Of a call that waits, or that tells of an earlier kernel's failure: which one is not known.
  void Note(const char* call, cudaError_t error) {
    if (error != cudaSuccess && failed_.empty())
      failed_ =
          fmt::format("{}: {} (newest launch: {}; CUDA_LAUNCH_BLOCKING=1 names the one at fault)",
                      call, cudaGetErrorString(error), NewestLaunch());
  }
  std::string NewestLaunch() const {
    return newest_.op == nullptr
               ? "none"
               : fmt::format("{} [{}]", newest_.op,
                             fmt::join(newest_.shape, newest_.shape + newest_.dims, ", "));
  }

  DeviceInfo info_;
  int index_ = 0;
  cudaStream_t stream_ = nullptr;
  cuda::Matmul matmul_;
  std::vector<cudaGraphExec_t> graphs_;
  cudaEvent_t marks_[kMarks] = {};
  std::byte* best_parts_ = nullptr;  // scratch of Argmax
  std::byte* bounce_ = nullptr;  // pinned: copies to pageable memory run at a fraction of the speed
  std::vector<Piece> locked_;    // what AllocateHost gave
  std::string failed_;           // the first failure
  struct {
    const char* op = nullptr;
    int dims = 0;
    int64_t shape[4] = {};
  } newest_;  // launch, for messages
};

std::string CudaDevice::Open(int index) {
  int count = 0;
  if (const cudaError_t e = cudaGetDeviceCount(&count); e != cudaSuccess)
    return std::string("no usable NVIDIA driver: ") + cudaGetErrorString(e) +
           " (CUDA 13 needs driver 580 or newer)";
  if (index < 0 || index >= count)
    return "GPU " + std::to_string(index) + ": this machine has " + std::to_string(count);
  cudaDeviceProp properties;
  if (const cudaError_t e = cudaGetDeviceProperties(&properties, index); e != cudaSuccess)
    return std::string("GPU properties: ") + cudaGetErrorString(e);
  info_.name = properties.name;
  info_.compute = properties.major * 10 + properties.minor;
  info_.multiprocessors = properties.multiProcessorCount;
  if (info_.compute < 80)
    return info_.name + " has compute capability " + std::to_string(properties.major) + "." +
           std::to_string(properties.minor) + "; 8.0 is the least that the kernels run on";
  index_ = index;
  cudaError_t e = cudaSetDevice(index);
  if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  for (cudaEvent_t& mark : marks_)
    if (e == cudaSuccess) e = cudaEventCreate(&mark);
  if (e == cudaSuccess) e = cudaMallocHost(reinterpret_cast<void**>(&bounce_), kBounce);
  if (e == cudaSuccess)
    e = cudaMalloc(reinterpret_cast<void**>(&best_parts_), ArgmaxScratch(kMostArgmaxRows));
  if (e == cudaSuccess)
    e = LaunchFillNormal(reinterpret_cast<uint16_t*>(best_parts_), 1, 1, 0, stream_);
  if (e == cudaErrorNoKernelImageForDevice)
    return fmt::format(
        "{} has compute capability {}.{}; this build has kernels for architectures {} (build with "
        "-DLSERVE_CUDA_ARCHITECTURES={})",
        info_.name, properties.major, properties.minor, LSERVE_CUDA_ARCHITECTURES, info_.compute);
  if (e != cudaSuccess) return info_.name + ": " + cudaGetErrorString(e);
  return matmul_.Init();
}

CudaDevice::~CudaDevice() {
  Bind();
  if (stream_) cudaStreamSynchronize(stream_);
  for (cudaGraphExec_t graph : graphs_) cudaGraphExecDestroy(graph);
  for (cudaEvent_t mark : marks_)
    if (mark) cudaEventDestroy(mark);
  if (best_parts_) cudaFree(best_parts_);
  if (bounce_) cudaFreeHost(bounce_);
  if (stream_) cudaStreamDestroy(stream_);
}

void CudaDevice::CopyOut(void* to, const std::byte* from, size_t bytes) {
  for (size_t done = 0; done < bytes && Ready(); done += kBounce) {
    const size_t size = std::min(kBounce, bytes - done);
    Note("copy from the device",
         cudaMemcpyAsync(bounce_, from + done, size, cudaMemcpyDeviceToHost, stream_));
    if (Ready()) Note("the device's work", cudaStreamSynchronize(stream_));
    std::memcpy(static_cast<std::byte*>(to) + done, bounce_, size);
  }
}

// From page-locked memory at once, else through the pinned buffer: as many copies in a row as it
// holds.
void CudaDevice::CopyIn(std::span<const Piece> to, const std::byte* from) {
  if (Locked(from)) {
    for (const Piece& piece : to) {
      CopyIn(piece.data, from, piece.bytes);
      from += piece.bytes;
    }
    return;
  }
  size_t used = kBounce;  // an earlier copy may still read it
  for (const Piece& piece : to) {
    if (piece.bytes > kBounce) {
      CopyIn(piece.data, from, piece.bytes);
    } else if (Ready()) {
      if (used + piece.bytes > kBounce) {
        Note("the device's work", cudaStreamSynchronize(stream_));
        used = 0;
      }
      std::memcpy(bounce_ + used, from, piece.bytes);
      Note("copy to the device", cudaMemcpyAsync(piece.data, bounce_ + used, piece.bytes,
                                                 cudaMemcpyHostToDevice, stream_));
      used += piece.bytes;
    }
    from += piece.bytes;
  }
}

void CudaDevice::CopyOut(std::byte* to, std::span<const Piece> from) {
  if (Locked(to)) {
    for (const Piece& piece : from) {
      if (Ready())
        Note("copy from the device",
             cudaMemcpyAsync(to, piece.data, piece.bytes, cudaMemcpyDeviceToHost, stream_));
      to += piece.bytes;
    }
    return;
  }
  size_t used = 0;
  const auto flush = [&] {
    if (Ready()) Note("the device's work", cudaStreamSynchronize(stream_));
    std::memcpy(to, bounce_, used);
    to += used;
    used = 0;
  };
  for (const Piece& piece : from) {
    if (used + piece.bytes > kBounce) flush();
    if (piece.bytes > kBounce) {
      CopyOut(to, piece.data, piece.bytes);
      to += piece.bytes;
    } else if (Ready()) {
      Note("copy from the device", cudaMemcpyAsync(bounce_ + used, piece.data, piece.bytes,
                                                   cudaMemcpyDeviceToHost, stream_));
      used += piece.bytes;
    }
  }
  flush();
}

int CudaDevice::EndGraph() {
  if (!Ready()) return -1;
  cudaGraph_t graph = nullptr;
  Note("graph capture", cudaStreamEndCapture(stream_, &graph));
  cudaGraphExec_t ready = nullptr;
  if (Ready()) Note("graph", cudaGraphInstantiate(&ready, graph, 0));
  if (graph) cudaGraphDestroy(graph);
  if (!Ready()) return -1;
  graphs_.push_back(ready);
  return static_cast<int>(graphs_.size()) - 1;
}

}  // namespace
}  // namespace lserve::cuda

// The library's only symbols. Null on failure, with the reason in `error`.
extern "C" __attribute__((visibility("default"))) lserve::Device* lserve_cuda_open(
    int index, char* error, size_t error_size) {
  auto device = std::make_unique<lserve::cuda::CudaDevice>();
  const std::string failed = device->Open(index);
  if (failed.empty()) return device.release();
  std::strncpy(error, failed.c_str(), error_size - 1);
  error[error_size - 1] = 0;
  return nullptr;
}
extern "C" __attribute__((visibility("default"))) int lserve_cuda_abi() {
  return lserve::kDeviceAbi;
}
