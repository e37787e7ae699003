// Kernel benchmarks: the attention table that the tests use (tests/cases/attn_cases.h, its large
// cases) and the linear layers of the models that we serve most. Build with -DLSERVE_BENCH=ON, then
//     kernels_bench [--backend=cpu] [--threads=2] [--benchmark_filter=REGEX]
// GB/s counts the bytes that must be read once: slices of listed blocks, or the stored matrix.
// GFLOP/s counts two operations a product, over visible pairs only.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdio>
#include <random>
#include <string>

#include "kernels/ops.h"
#include "tests/cases/attn_cases.h"

namespace lserve {
namespace {

using cases::AttnCase;
using cases::AttnProblem;

// Made once, first use of each benchmark; freed with the program.
std::unique_ptr<ThreadPool> g_pool;
std::unique_ptr<Ops> g_ops;

void Count(benchmark::State& state, double bytes, double flops) {
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["GFLOP/s"] = Counter(flops * 1e-9, Counter::kIsIterationInvariantRate);
}

void BenchAttention(benchmark::State& state, const AttnCase& c) {
  const KvCodec codec(c.k_type, c.v_type, c.dim);
  if (const Status s = g_ops->SupportsKv(codec, c.group); !s.ok())
    return state.SkipWithError(s.message().c_str());
  AttnProblem problem(c, c.seqs[0].q_len > 1 ? g_ops->PrefillTile(c.group) : 1);
  const AttentionArgs args{.q = problem.q(),
                           .out = problem.NewOutput(),
                           .plan = &problem.plan(),
                           .view = problem.view(),
                           .scale = problem.scale(),
                           .lse = nullptr};
  for (auto _ : state) g_ops->Attention(args);
  Count(state, static_cast<double>(problem.bytes()), static_cast<double>(problem.flops()));
}

struct Layer {
  const char* name;
  int outputs, inputs;
};
constexpr Layer kLayers[] = {
    {"smollm2_qo", 576, 576},     {"smollm2_gate", 1536, 576},   {"smollm2_down", 576, 1536},
    {"smollm2_head", 49152, 576}, {"qwen05b_qo", 896, 896},      {"qwen05b_gate", 4864, 896},
    {"qwen05b_down", 896, 4864},  {"qwen05b_head", 151936, 896},
};

void BenchLinear(benchmark::State& state, const Layer& layer, DType type) {
  const int rows = static_cast<int>(state.range(0));
  // Zero bytes are a valid matrix of every type, and no backend looks at values.
  const Buffer stored(static_cast<size_t>(layer.outputs * RowBytes(type, layer.inputs)));
  const auto weight =
      g_ops->Prepare({layer.name, type, layer.outputs, layer.inputs, stored.data(), 0}, false);
  CHECK(weight.ok());
  std::vector<float> x(static_cast<size_t>(rows) * layer.inputs);
  std::vector<float> y(static_cast<size_t>(rows) * layer.outputs);
  std::mt19937_64 random(1);
  const Mat in(x.data(), rows, layer.inputs);
  cases::FillNormal(in, 1, &random);
  const LinearOutput output{weight->get(), nullptr, Mat(y.data(), rows, layer.outputs), false};
  for (auto _ : state) g_ops->Linear(in, {&output, 1});
  Count(state, static_cast<double>(stored.size()), 2.0 * rows * layer.outputs * layer.inputs);
}

void Register(const std::string& backend) {
  for (const AttnCase& c : cases::AttnCases())
    if (c.large)
      benchmark::RegisterBenchmark(fmt::format("attention/{}/{}", backend, c.name).c_str(),
                                   [&c](benchmark::State& state) { BenchAttention(state, c); })
          ->UseRealTime();
  for (const Layer& layer : kLayers)
    for (DType type :
         {DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ8_0, DType::kQ4_K, DType::kQ6_K}) {
      if (layer.inputs % Info(type).block_elements != 0) continue;
      benchmark::RegisterBenchmark(
          fmt::format("linear/{}/{}_{}", backend, layer.name, Info(type).name).c_str(),
          [&layer, type](benchmark::State& state) { BenchLinear(state, layer, type); })
          ->ArgName("rows")
          ->Arg(1)
          ->Arg(8)
          ->Arg(64)
          ->Arg(512)
          ->UseRealTime();
    }
}

}  // namespace
}  // namespace lserve

int main(int argc, char** argv) {
  std::string backend = "cpu";
  int threads = 0;
  benchmark::Initialize(&argc, argv);  // takes its own flags out
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag.starts_with("--backend=")) {
      backend = flag.substr(10);
    } else if (flag.starts_with("--threads=")) {
      threads = std::atoi(flag.c_str() + 10);
    } else {
      std::fprintf(stderr, "%s: unknown flag; --backend=cpu|ref, --threads=N, --benchmark_*\n",
                   argv[i]);
      return 2;
    }
  }
  lserve::g_pool = std::make_unique<lserve::ThreadPool>(threads);
  auto ops = lserve::MakeOps(backend, lserve::g_pool.get());
  if (!ops.ok()) {
    std::fprintf(stderr, "%s\n", ops.status().ToString().c_str());
    return 2;
  }
  lserve::g_ops = *std::move(ops);
  lserve::Register(backend);
  benchmark::RunSpecifiedBenchmarks();
  lserve::g_ops.reset();
}
