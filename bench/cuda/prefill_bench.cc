// Checks the prefill attention kernels against plain loops in double, on inputs whose unlisted
// blocks, unwritten tails and outputs hold NaN, then times them:
//   prefill_bench [--check] [--generic] [--one-in N] [--speed] [--quick] [--only TEXT] [--json
//   FILE]
//   --generic: checks of the generic kernel alone; --one-in: as many of them, for sanitizers
//   --quick: fewer speeds; --only: of the cases whose name holds TEXT; JSON: an object a line
// Exit code 1 if a check fails. Figures: docs/kernels/prefill.md.
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/cuda/prefill_cases.h"
#include "kernels/cuda/attn/prefill.h"

namespace lserve::bench {
namespace {

using cuda::Bf16;
using Launcher = cudaError_t (*)(const cuda::PrefillArgs&, cudaStream_t);

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <class T>
struct Buffer {
  T* data = nullptr;
  explicit Buffer(size_t count) { Check(cudaMalloc(&data, count * sizeof(T) + 256), "cudaMalloc"); }
  explicit Buffer(const std::vector<T>& from) : Buffer(from.size()) {
    Check(cudaMemcpy(data, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(data); }
  std::vector<T> Get(size_t count) const {
    std::vector<T> out(count);
    Check(cudaMemcpy(out.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), "copy back");
    return out;
  }
};

Bf16 ToBf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<Bf16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float FromBf16(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
constexpr Bf16 kNan = 0xffff;

// Normal numbers of deviation 1, a prime count.
const std::vector<Bf16>& Noise() {
  static const std::vector<Bf16> noise = [] {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    std::vector<Bf16> block(3999971);
    for (Bf16& b : block) b = ToBf16(normal(random));
    return block;
  }();
  return noise;
}

// ---------------------------------------------------------------- correctness

struct Error {
  double relative = 0, worst_row = 0, lse = 0;
  bool untouched = true;  // rows and elements that no tile names
};

// One row of one head: the squared norms of its error and of the right answer.
struct Sample {
  const Tile* tile;
  int row, head;
  double difference = 0, norm = 0, lse = 0;
};

void Compare(const PrefillPlan& plan, int dim, double scale, const Bf16* q, const Bf16* k,
             const Bf16* v, const Bf16* out, double lse, Sample* sample) {
  const Tile& t = *sample->tile;
  std::vector<std::pair<int, double>> keys;
  double most = -INFINITY;
  for (int i = t.run_begin; i < t.run_end; ++i) {
    const Run& run = plan.runs[i];
    for (int j = run.first * 64; j < std::min(t.kv_len, (run.first + run.count) * 64); ++j) {
      if (run.masked && !Visible(t, t.q_pos + sample->row, j)) continue;
      double x = 0;
      for (int d = 0; d < dim; ++d)
        x += static_cast<double>(FromBf16(q[d])) * FromBf16(k[j * dim + d]);
      keys.emplace_back(j, x * scale);
      most = std::max(most, x * scale);
    }
  }
  double sum = 0;
  std::vector<double> o(static_cast<size_t>(dim));
  for (const auto& [j, x] : keys) {
    const double w = std::exp(x - most);
    sum += w;
    for (int d = 0; d < dim; ++d) o[d] += w * FromBf16(v[j * dim + d]);
  }
  for (int d = 0; d < dim; ++d) {
    const double want = o[d] / sum, error = FromBf16(out[d]) - want;
    sample->difference += error * error;
    sample->norm += want * want;
  }
  sample->lse = std::abs(lse - (most + std::log(sum)));
}

// The kernel's inputs: Q rows behind a gap and inside wider rows, K and V scratch whose first head
// is not the model's.
Error CheckShape(const PrefillShape& s, int q_tile, Launcher launch, uint32_t seed) {
  constexpr int kGap = 3, kPad = 16;
  PrefillPlan plan = MakePlan(s, q_tile, seed);
  for (Tile& t : plan.tiles) t.q_begin += kGap;
  const int rows = s.chunk + kGap, kv_len = s.history + s.chunk, group = s.q_heads / s.kv_heads;
  const int blocks = (kv_len + kBlockTokens - 1) / kBlockTokens + 1;
  const int64_t stride = s.q_heads * s.dim + kPad, head_stride = int64_t{blocks} * 64 * s.dim;
  std::mt19937 random(seed);
  const auto fill = [&](Bf16* to, size_t count, float factor) {
    const size_t from = random() % (Noise().size() - count);
    for (size_t i = 0; i < count; ++i) to[i] = ToBf16(factor * FromBf16(Noise()[from + i]));
  };
  std::vector<Bf16> q(static_cast<size_t>(rows * stride), kNan);
  std::vector<Bf16> k(static_cast<size_t>(head_stride * s.kv_heads), kNan), v = k;
  for (int r = kGap; r < rows; ++r) fill(&q[r * stride], s.q_heads * s.dim, 2.f);
  std::vector<char> filled(static_cast<size_t>(s.kv_heads * blocks));
  for (const Tile& t : plan.tiles)
    for (int r = t.run_begin; r < t.run_end; ++r)
      for (int b = plan.runs[r].first; b < plan.runs[r].first + plan.runs[r].count; ++b) {
        const int head = t.head / group;
        if (std::exchange(filled[head * blocks + b], 1)) continue;
        const size_t at = static_cast<size_t>(head * head_stride + int64_t{b} * 64 * s.dim);
        const size_t count = static_cast<size_t>(std::min(kv_len - b * 64, 64) * s.dim);
        fill(&k[at], count, 1.f);
        fill(&v[at], count, 1.f);
      }
  const Buffer<Bf16> dq(q), dk(k), dv(v);
  const Buffer<Bf16> dout(std::vector<Bf16>(q.size(), kNan));
  const std::vector<float> lse_poison(static_cast<size_t>(rows * s.q_heads), NAN);
  const Buffer<float> dlse(lse_poison);
  const Buffer<Tile> tiles(plan.tiles);
  const Buffer<Run> runs(plan.runs);
  const int num_tiles = static_cast<int>(plan.tiles.size());
  const Buffer<std::byte> workspace(cuda::PrefillWorkspace(num_tiles, plan.shape));
  cuda::PrefillArgs args{};
  args.q = dq.data;
  args.out = dout.data;
  args.lse = dlse.data;
  args.q_stride = args.out_stride = stride;
  args.k = dk.data;
  args.v = dv.data;
  args.head_stride = head_stride;
  args.kv_tokens = blocks * 64;
  args.tiles = tiles.data;
  args.runs = runs.data;
  args.host_tiles = plan.tiles.data();
  args.host_runs = plan.runs.data();
  args.num_tiles = num_tiles;
  args.shape = plan.shape;
  args.dim = s.dim;
  args.scale = 1.f / std::sqrt(static_cast<float>(s.dim));
  args.workspace = workspace.data;
  Check(launch(args, nullptr), "launch");
  Check(cudaDeviceSynchronize(), "kernel");
  const std::vector<Bf16> out = dout.Get(q.size());
  const std::vector<float> lse = dlse.Get(lse_poison.size());

  // Every eighth row and the first and last ones of a tile; rows over threads.
  std::vector<Sample> samples;
  std::vector<char> written(static_cast<size_t>(rows));
  for (const Tile& t : plan.tiles)
    for (int r = 0; r < t.q_len; ++r) {
      written[t.q_begin + r] = 1;
      if (r > 1 && r < t.q_len - 2 && random() % 8 != 0) continue;
      for (int h = t.head; h < t.head + plan.shape.heads_per_tile; ++h)
        samples.push_back({&t, r, h});
    }
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i; (i = next++) < samples.size();) {
      Sample& a = samples[i];
      const size_t row = static_cast<size_t>(a.tile->q_begin + a.row);
      const size_t at = row * stride + a.head * s.dim, kv = a.head / group * head_stride;
      Compare(plan, s.dim, args.scale, &q[at], &k[kv], &v[kv], &out[at],
              lse[row * s.q_heads + a.head], &a);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(work);
  for (std::thread& t : threads) t.join();

  Error error;
  double difference = 0, norm = 0;
  for (const Sample& a : samples) {
    difference += a.difference;
    norm += a.norm;
    const double row_error = std::sqrt(a.difference / a.norm);
    if (!(row_error <= error.worst_row)) error.worst_row = row_error;  // NaN stays
    if (!(a.lse <= error.lse)) error.lse = a.lse;
  }
  error.relative = std::sqrt(difference / norm);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < stride; ++c)
      if ((!written[r] || c >= s.q_heads * s.dim) && out[r * stride + c] != kNan)
        error.untouched = false;
  return error;
}

int CheckKernel(const char* name, Launcher launch, bool hopper, uint32_t one_in) {
  std::vector<PrefillShape> shapes;
  for (int dim : {64, 128}) {
    const auto add = [&](PrefillShape s) {
      s.dim = dim;
      shapes.push_back(s);
    };
    const auto heads = [](int q, int kv, int per_tile) {
      PrefillShape s;
      s.q_heads = q, s.kv_heads = kv, s.heads_per_tile = per_tile;
      return s;
    };
    // Dense: lengths around blocks and tiles, every group, tiles of part of a group.
    for (int chunk : {1, 2, 63, 64, 65, 127, 128, 129, 200, 511, 640, 1000})
      for (int history : {0, 1, 64, 77, 300}) {
        PrefillShape s = heads(2, 1, 0);
        s.chunk = chunk, s.history = history;
        add(s);
      }
    for (const auto& [q, kv, per_tile] : std::vector<std::array<int, 3>>{{2, 2, 0},
                                                                         {3, 1, 0},
                                                                         {8, 2, 0},
                                                                         {8, 2, 1},
                                                                         {8, 2, 2},
                                                                         {12, 2, 0},
                                                                         {12, 2, 3},
                                                                         {14, 2, 0},
                                                                         {14, 2, 1},
                                                                         {16, 2, 0},
                                                                         {32, 8, 0}}) {
      PrefillShape s = heads(q, kv, per_tile);
      s.chunk = 300, s.history = 201;
      add(s);
      s.keep = 0.4, s.history = 900;
      add(s);
      s.keep = 1, s.streaming_heads = kv, s.sink = 64, s.window = 256;
      add(s);
    }
    // Sinks and windows of any size; half of the heads.
    for (int sink : {0, 1, 64, 100, 128, 400})
      for (int window : {1, 40, 64, 129, 256, 333, 2000})
        for (int chunk : {100, 257, 900}) {
          PrefillShape s = heads(4, 2, 0);
          s.chunk = chunk, s.history = chunk == 257 ? 1111 : 0, s.sink = sink, s.window = window;
          s.streaming_heads = chunk == 100 ? 1 : 2;
          add(s);
        }
    for (double keep : {0.0, 0.1, 0.3, 0.5, 0.9})
      for (int chunk : {64, 130, 777}) {
        PrefillShape s = heads(4, 2, 0);
        s.chunk = chunk, s.history = 1500, s.keep = keep;
        add(s);
      }
    // Few tiles behind long lists: cut into pieces.
    for (const auto& [chunk, history] : std::vector<std::array<int, 2>>{
             {1, 5000}, {64, 4096}, {130, 9000}, {200, 20000}, {385, 6100}})
      for (double keep : {1.0, 0.5})
        for (int streaming : {0, 1}) {
          PrefillShape s = heads(8, 2, 0);
          s.chunk = chunk, s.history = history, s.keep = keep;
          s.sink = 128, s.window = 3000, s.streaming_heads = streaming;
          add(s);
        }
  }
  int failed = 0;
  Error most;
  uint32_t seed = 1;
  std::mt19937 random(3);
  for (const PrefillShape& s : shapes) {
    for (int q_tile : {0, 64, 100}) {
      if (random() % one_in != 0) continue;
      if (q_tile == 0) q_tile = hopper ? cuda::PrefillTileSm90(s.dim) : cuda::kPrefillTileGeneric;
      if (q_tile == 100 && seed % 3 != 0) continue;
      const Error e = CheckShape(s, q_tile, launch, seed++);
      const bool good = e.relative < 6e-3 && e.worst_row < 2e-2 && e.lse < 2e-3 && e.untouched;
      if (!good && ++failed <= 12)
        std::printf(
            "%s D %d, %d/%d heads (%d a tile), chunk %d after %d, sink %d window %d x %d, "
            "keep %.1f, q tile %d: error %.1e, worst row %.1e, lse %.1e%s\n",
            name, s.dim, s.q_heads, s.kv_heads, s.heads_per_tile, s.chunk, s.history, s.sink,
            s.window, s.streaming_heads, s.keep, q_tile, e.relative, e.worst_row, e.lse,
            e.untouched ? "" : ", wrote where it must not");
      most.relative = std::max(most.relative, e.relative);
      most.worst_row = std::max(most.worst_row, e.worst_row);
      most.lse = std::max(most.lse, e.lse);
    }
  }
  std::printf("%s: %u shapes, %d failed; largest error %.1e, of a row %.1e, of an lse %.1e\n", name,
              seed - 1, failed, most.relative, most.worst_row, most.lse);
  return failed;
}

// ---------------------------------------------------------------- speed

void FillNoise(Bf16* x, size_t count, size_t from) {
  static const Buffer<Bf16> noise(Noise());
  for (size_t at = 0; at < count; from = 0) {
    const size_t some = std::min(count - at, Noise().size() - from);
    Check(cudaMemcpy(x + at, noise.data + from, some * sizeof(Bf16), cudaMemcpyDeviceToDevice),
          "fill");
    at += some;
  }
}

struct Timing {
  double ms, tflops, fraction;
  double host_us;  // of a launch
};

Timing Time(const PrefillShape& s, Launcher launch, int q_tile, int repeats) {
  const PrefillPlan plan = MakePlan(s, q_tile, 7);
  const int64_t rows = s.chunk, stride = s.q_heads * s.dim;
  const int64_t kv_len = s.history + s.chunk, head_stride = (kv_len + 63) / 64 * 64 * s.dim;
  const Buffer<Bf16> q(rows * stride), out(rows * stride), k(head_stride * s.kv_heads),
      v(head_stride * s.kv_heads);
  const Buffer<float> lse(rows * s.q_heads);
  FillNoise(q.data, rows * stride, 1000);
  FillNoise(k.data, head_stride * s.kv_heads, 77777);
  FillNoise(v.data, head_stride * s.kv_heads, 1234567);
  const Buffer<Tile> tiles(plan.tiles);
  const Buffer<Run> runs(plan.runs);
  const int num_tiles = static_cast<int>(plan.tiles.size());
  const Buffer<std::byte> workspace(cuda::PrefillWorkspace(num_tiles, plan.shape));
  cuda::PrefillArgs args{q.data,
                         out.data,
                         lse.data,
                         stride,
                         stride,
                         k.data,
                         v.data,
                         head_stride,
                         static_cast<int>((kv_len + 63) / 64 * 64),
                         tiles.data,
                         runs.data,
                         plan.tiles.data(),
                         plan.runs.data(),
                         num_tiles,
                         plan.shape,
                         s.dim,
                         0,
                         1.f / std::sqrt(static_cast<float>(s.dim)),
                         false,
                         workspace.data};
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  // Launches back to back, as an engine queues layers: the host's part hides behind the device's.
  std::vector<float> times;
  double host_us = INFINITY;
  for (int i = 0; i < 3; ++i) {
    Check(launch(args, nullptr), "launch");
    cudaEventRecord(begin);
    const auto start = std::chrono::steady_clock::now();
    for (int r = 0; r < repeats; ++r) Check(launch(args, nullptr), "launch");
    const std::chrono::duration<double, std::micro> spent =
        std::chrono::steady_clock::now() - start;
    host_us = std::min(host_us, spent.count() / repeats);
    cudaEventRecord(end);
    Check(cudaEventSynchronize(end), "kernel");
    float ms;
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(ms / static_cast<float>(repeats));
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  const double ms = times[times.size() / 2];
  const double fraction = static_cast<double>(plan.listed) / static_cast<double>(plan.dense);
  return {ms, 4.0 * s.dim * plan.pairs * fraction / ms * 1e-9, fraction, host_us};
}

void Speed(Launcher launch, bool quick, const std::string& only, FILE* json) {
  const auto shape = [](int dim, int history, int chunk) {
    PrefillShape s;
    s.dim = dim, s.history = history, s.chunk = chunk;
    return s;
  };
  std::printf("\n%-34s %9s %9s %8s %8s %8s\n", "32/8 heads", "ms", "TFLOP/s", "host us", "visited",
              "ideal/is");
  const auto row = [&](const std::string& name, const PrefillShape& s, double dense_ms) {
    if (name.find(only) == std::string::npos) return 0.0;
    const int repeats = s.chunk + s.history > 100000 ? 1 : s.chunk >= 32768 ? 5 : 20;
    const Timing t = Time(s, launch, cuda::PrefillTileSm90(s.dim), repeats);
    std::printf("%-34s %9.3f %9.1f %8.0f %8.3f", name.c_str(), t.ms, t.tflops, t.host_us,
                t.fraction);
    if (dense_ms > 0) std::printf(" %8.3f", t.fraction * dense_ms / t.ms);
    std::printf("\n");
    std::fflush(stdout);
    if (json)
      std::fprintf(json, "{\"case\": \"%s\", \"ms\": %.4f, \"tflops\": %.1f, \"visited\": %.4f}\n",
                   name.c_str(), t.ms, t.tflops, t.fraction);
    return t.ms;
  };
  for (int k : quick ? std::vector<int>{8, 32, 128} : std::vector<int>{8, 16, 32, 64, 128})
    row("dense " + std::to_string(k) + "K", shape(128, 0, k * 1024), 0);
  for (int k : quick ? std::vector<int>{16} : std::vector<int>{8, 32})
    row("dense D 64 " + std::to_string(k) + "K", shape(64, 0, k * 1024), 0);
  for (int chunk : {128, 256, 512, 1024, 2048, 8192})
    for (int streaming : {0, 4}) {
      PrefillShape s = shape(128, 131072, chunk);
      s.sink = 128, s.window = 8192, s.streaming_heads = streaming;
      row("chunk " + std::to_string(chunk) + (streaming ? " streaming" : "") + " after 128K", s, 0);
    }
  for (int k : quick ? std::vector<int>{32} : std::vector<int>{32, 128}) {
    PrefillShape s = shape(128, 0, k * 1024);
    const std::string at = " at " + std::to_string(k) + "K";
    const double dense = row("dense" + at, s, 0);
    s.sink = 128, s.window = 8192, s.streaming_heads = 4;
    row("half streaming" + at, s, dense);
    s.streaming_heads = 0;
    for (double keep : quick ? std::vector<double>{0.1, 0.5}
                             : std::vector<double>{0.1, 0.2, 0.3, 0.4, 0.5, 0.6}) {
      s.keep = keep;
      row("random " + std::to_string(keep).substr(0, 3) + at, s, dense);
    }
  }
}

}  // namespace
}  // namespace lserve::bench

int main(int argc, char** argv) {
  using namespace lserve;
  bool check = false, speed = false, quick = false, generic = false;
  std::string only;
  uint32_t one_in = 1;
  FILE* json = nullptr;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    check |= arg == "--check";
    speed |= arg == "--speed";
    quick |= arg == "--quick";
    generic |= arg == "--generic";
    if (arg == "--only" && i + 1 < argc) only = argv[++i];
    if (arg == "--one-in" && i + 1 < argc) one_in = static_cast<uint32_t>(std::atoi(argv[++i]));
    if (arg == "--json" && i + 1 < argc) json = std::fopen(argv[++i], "w");
  }
  if (!check && !speed) check = speed = true;
  cudaDeviceProp device;
  bench::Check(cudaGetDeviceProperties(&device, 0), "device");
  const bool hopper = device.major == 9 && device.minor == 0;
  std::printf("%s, %d multiprocessors\n", device.name, device.multiProcessorCount);
  int failed = 0;
  if (check) {
    if (hopper && !generic)
      failed += bench::CheckKernel("sm90", cuda::LaunchPrefillSm90, true, one_in);
    failed += bench::CheckKernel("generic", cuda::LaunchPrefillGeneric, false, one_in);
  }
  if (speed && hopper) bench::Speed(cuda::LaunchPrefill, quick, only, json);
  if (json) std::fclose(json);
  return failed != 0;
}
