// Decode attention, page selection and decode plans on one GPU: first whether they are right, then
// how fast. Llama-3-8B's attention: 8 KV heads of 4 query heads, D 128. The L2 is cold: a graph
// walks over copies of the pages that are together larger than 256 MB.
//
//   decode_bench [--quick] [--only TEXT] [--json FILE]
//   --quick: no correctness; --only: speed of the cases whose name holds TEXT
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "decode_check.h"
#include "device_kv.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "read_bandwidth.h"

namespace lserve::bench {
namespace {

constexpr int kKvHeads = 8, kGroup = 4, kDim = 128, kQHeads = kKvHeads * kGroup;
constexpr size_t kCold = 256 << 20;

// Normal numbers in bf16; read as f16 scales they are about 1 in size too, and codes get their
// bits.
void FillRandom(void* data, size_t bytes) {
  Ok(cuda::LaunchFillNormal(static_cast<uint16_t*>(data), static_cast<int64_t>(bytes / 2), 1, 7,
                            nullptr),
     "fill");
}

struct Row {
  std::string name;
  double us, bytes, target_us;
};
std::vector<Row> results;
double read_bandwidth;  // bytes a second
std::string only;       // cases whose name holds this

void Report(const std::string& name, double us, double bytes, double target_us) {
  results.push_back({name, us, bytes, target_us});
  std::printf("%-44s %9.2f us %9.2f MB %6.1f %% of read bandwidth", name.c_str(), us, bytes / 1e6,
              100 * bytes / read_bandwidth / (us * 1e-6));
  if (target_us > 0)
    std::printf("   target %8.2f us %s", target_us, us <= target_us ? "ok" : "MISSED");
  std::printf("\n");
}

// `copies` layers of pages and statistics for `batch` sequences of `blocks` blocks. Pages of a
// sequence lie in no order.
struct Cache {
  Cache(KvCodec codec_, std::vector<HeadClass> classes, int batch, int blocks, int copies_,
        bool with_stats)
      : heads(classes), codec(codec_), copies(copies_) {
    const size_t pages = static_cast<size_t>(batch) * static_cast<size_t>(blocks);
    std::vector<int32_t> ids(pages);
    for (size_t i = 0; i < pages; ++i) ids[i] = static_cast<int32_t>(i);
    Random random(1);
    std::shuffle(ids.begin(), ids.end(), random);
    table = std::make_unique<DeviceArray<int32_t>>(ids);
    view.heads = &heads, view.codec = codec, view.stats = {16, codec.dim()};
    for (HeadClass cls : {HeadClass::kRetrieval, HeadClass::kStreaming}) {
      const size_t i = static_cast<size_t>(cls), here = static_cast<size_t>(heads.count(cls));
      if (here == 0) continue;
      PoolView& pool = view.pools[i];
      pool.page_bytes = static_cast<int64_t>(here * codec.slice_bytes());
      pool.stats_page_elements = static_cast<int64_t>(here * view.stats.slice_bytes() / 2);
      pool.table = table->get(), pool.table_stride = blocks;
      layer_bytes[i] = pages * static_cast<size_t>(pool.page_bytes);
      memory[i] =
          std::make_unique<DeviceArray<std::byte>>(layer_bytes[i] * static_cast<size_t>(copies));
      FillRandom(memory[i]->get(), memory[i]->size());
      if (with_stats && cls == HeadClass::kRetrieval) {
        stats_elements = pages * static_cast<size_t>(pool.stats_page_elements);
        stats =
            std::make_unique<DeviceArray<uint16_t>>(stats_elements * static_cast<size_t>(copies));
        FillRandom(stats->get(), stats->size() * 2);
      }
    }
  }
  // Random bits are as good statistics in 8 bits as in 16.
  cuda::DeviceView Layer(int copy, int stats_bits = 16) const {
    KvView v = view;
    v.stats.bits = stats_bits;
    v.pools[0].stats_page_elements = static_cast<int64_t>(heads.count(HeadClass::kRetrieval)) *
                                     static_cast<int64_t>(v.stats.slice_bytes() / 2);
    for (size_t i : {0u, 1u})
      if (memory[i])
        v.pools[i].pages = memory[i]->get() + layer_bytes[i] * static_cast<size_t>(copy);
    if (stats) v.pools[0].stats = stats->get() + stats_elements * static_cast<size_t>(copy);
    return cuda::ToDevice(v);
  }

  HeadMap heads;
  KvCodec codec;
  int copies;
  KvView view;
  size_t layer_bytes[2] = {}, stats_elements = 0;
  std::unique_ptr<DeviceArray<std::byte>> memory[2];
  std::unique_ptr<DeviceArray<uint16_t>> stats;
  std::unique_ptr<DeviceArray<int32_t>> table;
};

int Copies(size_t touched) {
  return std::max(2, static_cast<int>((kCold + touched - 1) / touched));
}

struct Activations {
  explicit Activations(int batch) : q(static_cast<size_t>(batch) * kQHeads * kDim), out(q.size()) {
    Random random(1);
    q.Set(RandomBf16(q.size(), 1, &random));
  }
  DeviceArray<uint16_t> q, out;
};

// A decode plan as the device writes it, for one layer.
struct Plan {
  Plan(const std::vector<HeadClass>& classes, int batch, int len, bool selected, int budget) {
    const int all_blocks = (len + 63) / 64, local_begin = (len - 1) / 64 - 3;
    capacity = budget / 64;
    k = budget / 64 - 5;
    for (int i = 0; i < batch; ++i)
      rows.push_back({i, i, 1, len - 1, 128, 256, selected, selected, 1, local_begin, k});
    Random random(4);
    std::vector<int32_t> all;
    for (int b = 1; b < local_begin; ++b) all.push_back(b);
    std::vector<int32_t> host_lists(static_cast<size_t>(batch * kKvHeads * capacity));
    std::vector<int32_t> host_counts(static_cast<size_t>(batch * kKvHeads));
    for (size_t i = 0; i < host_counts.size(); ++i) {
      std::vector<int32_t> some;
      std::sample(all.begin(), all.end(), std::back_inserter(some), k, random);
      std::copy(some.begin(), some.end(), host_lists.begin() + static_cast<int64_t>(i) * capacity);
      host_counts[i] = static_cast<int32_t>(some.size());
    }
    lists = std::make_unique<DeviceArray<int32_t>>(host_lists);
    counts = std::make_unique<DeviceArray<int32_t>>(host_counts);
    d_rows = std::make_unique<DeviceArray<DecodeRow>>(rows);
    std::vector<uint8_t> cls;
    for (HeadClass c : classes) cls.push_back(static_cast<uint8_t>(c));
    d_class = std::make_unique<DeviceArray<uint8_t>>(cls);
    tiles = std::make_unique<DeviceArray<Tile>>(static_cast<size_t>(batch * kKvHeads));
    blocks = std::make_unique<DeviceArray<int32_t>>(static_cast<size_t>(batch * kKvHeads));
    runs =
        std::make_unique<DeviceArray<Run>>(static_cast<size_t>(batch * kKvHeads * (capacity + 8)));
    Ok(cuda::LaunchDecodePlan(Launch(), nullptr), "decode plan");
    Ok(cudaDeviceSynchronize(), "decode plan");
    max_blocks = all_blocks;
    const std::vector<Tile> host_tiles = tiles->Host();
    const std::vector<Run> host_runs = runs->Host();
    for (const Tile& t : host_tiles)
      for (int r = t.run_begin; r < t.run_end; ++r)
        listed += host_runs[static_cast<size_t>(r)].count;
  }
  cuda::DecodePlanLaunch Launch() const {
    return {d_rows->get(),
            static_cast<int>(rows.size()),
            Lists(),
            d_class->get(),
            0,
            1,
            kQHeads,
            kKvHeads,
            true,
            tiles->get(),
            runs->get(),
            capacity + 8,
            blocks->get()};
  }
  cuda::SelectionLists Lists() const {
    return {lists->get(), counts->get(), capacity, 1, kKvHeads};
  }

  int capacity, k, max_blocks;
  int64_t listed = 0;  // blocks of all tiles
  std::vector<DecodeRow> rows;
  std::unique_ptr<DeviceArray<int32_t>> lists, counts, blocks;
  std::unique_ptr<DeviceArray<DecodeRow>> d_rows;
  std::unique_ptr<DeviceArray<uint8_t>> d_class;
  std::unique_ptr<DeviceArray<Tile>> tiles;
  std::unique_ptr<DeviceArray<Run>> runs;
};

// Launches in a graph: many, for starting a graph takes as long as several small ones, and no more
// than reads about 8 GB.
int Launches(double bytes, int copies) {
  return std::max(copies, std::clamp(static_cast<int>(8e9 / bytes), 4, 128));
}

// Microseconds of one launch, which reads `bytes`. `settled`: as in a step that selects nothing,
// when the plan and all but the newest pages are there before the kernel in front.
double DecodeTime(const Cache& cache, const Plan& plan, const Activations& x, double bytes,
                  bool deterministic, bool settled = true) {
  cuda::DecodeArgs args{};
  args.q = x.q.get(), args.out = x.out.get();
  args.q_stride = args.out_stride = kQHeads * kDim;
  args.tiles = plan.tiles->get(), args.runs = plan.runs->get();
  args.num_tiles = static_cast<int>(plan.tiles->size()), args.max_blocks = plan.max_blocks;
  args.shape = {kQHeads, kKvHeads, kGroup, 1};
  args.scale = 1 / std::sqrt(static_cast<float>(kDim));
  args.deterministic = deterministic;
  args.tile_blocks = plan.blocks->get();
  args.settled = settled;
  const DeviceArray<std::byte> workspace(
      cuda::DecodeWorkspace(args.num_tiles, args.shape, kDim, deterministic));
  args.workspace = workspace.get();
  const int launches = Launches(bytes, cache.copies);
  const float ms = GraphTime(
      [&](cudaStream_t stream) {
        for (int i = 0; i < launches; ++i) {
          args.view = cache.Layer(i % cache.copies);
          Ok(cuda::LaunchDecode(args, stream), "LaunchDecode");
        }
      },
      7);
  return 1e3 * ms / launches;
}

double SelectTime(const Cache& cache, const Plan& plan, const Activations& x, double bytes,
                  PageScore score) {
  cuda::SelectLaunch launch{};
  launch.score = score, launch.reach = 3;
  launch.q = x.q.get(), launch.q_stride = kQHeads * kDim;
  launch.rows = plan.d_rows->get(), launch.num_rows = static_cast<int>(plan.rows.size());
  launch.max_blocks = plan.max_blocks;
  launch.lists = plan.Lists();
  launch.q_heads = kQHeads, launch.shared = true, launch.settled = true;
  const DeviceArray<std::byte> workspace(
      cuda::SelectWorkspace(launch.num_rows, kQHeads, launch.max_blocks, score));
  launch.workspace = workspace.get();
  const int launches = Launches(bytes, cache.copies);
  const float ms = GraphTime(
      [&](cudaStream_t stream) {
        for (int i = 0; i < launches; ++i) {
          launch.view = cache.Layer(i % cache.copies, score == PageScore::kBounds8 ? 8 : 16);
          Ok(cuda::LaunchSelect(launch, stream), "LaunchSelect");
        }
      },
      7);
  return 1e3 * ms / launches;
}

void Dense() {
  for (KvType type : {KvType::kKv16, KvType::kKv8, KvType::kKv4})
    for (int batch : {1, 4, 8, 16})
      for (int len : {32 << 10, 128 << 10, 256 << 10}) {
        const std::string name = "dense " + KvCodec(type, type, kDim).name() + " batch " +
                                 std::to_string(batch) + " " + std::to_string(len >> 10) + "K";
        if (batch * (len >> 10) > 2048 || name.find(only) == std::string::npos) continue;
        const std::vector<HeadClass> classes(kKvHeads, HeadClass::kRetrieval);
        const KvCodec codec(type, type, kDim);
        const double bytes = static_cast<double>(batch) * len / 64 * kKvHeads *
                             static_cast<double>(codec.slice_bytes());
        const Cache cache(codec, classes, batch, len / 64, Copies(static_cast<size_t>(bytes)),
                          false);
        const Plan plan(classes, batch, len, false, 4096);
        const Activations x(batch);
        const double share = type == KvType::kKv4 ? 0.75 : 0.85;
        Report(name, DecodeTime(cache, plan, x, bytes, false), bytes,
               1e6 * bytes / (share * read_bandwidth) + 4);
        if (batch <= 4 && len == 128 << 10)
          Report(name + " deterministic", DecodeTime(cache, plan, x, bytes, true), bytes, 0);
      }
}

void Sparse() {
  const int len = 128 << 10, budget = 4096;
  std::vector<HeadClass> classes;
  for (int h = 0; h < kKvHeads; ++h)
    classes.push_back(h % 2 ? HeadClass::kStreaming : HeadClass::kRetrieval);
  for (KvType type : {KvType::kKv16, KvType::kKv8, KvType::kKv4})
    for (int batch : {1, 4, 8, 16}) {
      const KvCodec codec(type, type, kDim);
      const std::string name =
          "sparse " + codec.name() + " batch " + std::to_string(batch) + " 128K";
      if (name.find(only) == std::string::npos) continue;
      const Plan plan(classes, batch, len, true, budget);
      const double bytes =
          static_cast<double>(plan.listed) * static_cast<double>(codec.slice_bytes());
      const double ranked =
          static_cast<double>(batch) * (kKvHeads / 2) * (plan.rows[0].local_begin - 1);
      const size_t layer = static_cast<size_t>(batch) * (len / 64) * kKvHeads * codec.slice_bytes();
      const int copies = std::min(Copies(static_cast<size_t>(bytes)),
                                  std::max(2, static_cast<int>((size_t{40} << 30) / layer)));
      const Cache cache(codec, classes, batch, len / 64, copies, true);
      const Activations x(batch);
      // Attention first: selection overwrites the lists.
      const double attention = DecodeTime(cache, plan, x, bytes, false);
      Report(name + " attention", attention, bytes, 0);
      const double behind = DecodeTime(cache, plan, x, bytes, false, false);
      Report(name + " attention behind its plan", behind, bytes, 0);
      Report(name + " attention deterministic", DecodeTime(cache, plan, x, bytes, true), bytes, 0);
      double target = 0;  // on an H100
      if (batch == 1 && type == KvType::kKv8) target = 12;
      if (batch == 8) target = type == KvType::kKv4 ? 26 : type == KvType::kKv8 ? 34 : 48;
      for (PageScore score : kPageScores) {
        const KeyStats stats{16, kDim, score == PageScore::kBounds8 ? 8 : 16};
        const double ranks =
            ranked * static_cast<double>(score == PageScore::kKeys ? codec.slice_bytes() / 2
                                                                   : stats.slice_bytes());
        const std::string by = std::string(" by ") + PageScoreName(score);
        const double select = SelectTime(cache, plan, x, ranks, score);
        Report(name + " selection" + by, select, ranks, 0);
        Report(name + " four steps / 4" + by, (3 * attention + behind + select) / 4,
               bytes + ranks / 4, target);
      }
    }
  const Plan plan(classes, 8, len, true, budget);
  const float ms = GraphTime(
      [&](cudaStream_t stream) {
        for (int i = 0; i < 64; ++i) Ok(cuda::LaunchDecodePlan(plan.Launch(), stream), "plan");
      },
      7);
  Report("decode plan batch 8, one layer a launch", 1e3 * ms / 64, 0, 0);
}

void WriteJson(const char* path) {
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) {
    std::fprintf(stderr, "--json: cannot write %s\n", path);
    std::exit(1);
  }
  std::fprintf(file, "[\n");
  for (size_t i = 0; i < results.size(); ++i)
    std::fprintf(file,
                 "  {\"name\": \"%s\", \"us\": %.3f, \"bytes\": %.0f, \"target_us\": %.3f}%s\n",
                 results[i].name.c_str(), results[i].us, results[i].bytes, results[i].target_us,
                 i + 1 < results.size() ? "," : "");
  std::fprintf(file, "]\n");
  std::fclose(file);
}

}  // namespace
}  // namespace lserve::bench

int main(int argc, char** argv) {
  using namespace lserve::bench;
  bool quick = false;
  const char* json = nullptr;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json = argv[++i];
    } else {
      std::fprintf(stderr, "usage: decode_bench [--quick] [--only TEXT] [--json FILE]\n");
      return 2;
    }
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);
  cudaDeviceProp prop;
  Ok(cudaGetDeviceProperties(&prop, 0), "cudaGetDeviceProperties");
  read_bandwidth = ReadBandwidth();
  std::printf("%s, %d multiprocessors, reads %.2f TB/s; targets are those of an H100\n", prop.name,
              prop.multiProcessorCount, read_bandwidth / 1e12);
  bool good = true;
  if (!quick) {
    good = CheckDecodePlan() & CheckSelect() & CheckDecode();
    std::fflush(stdout);
  }
  Sparse();
  Dense();
  if (json) WriteJson(json);
  return good ? 0 : 1;
}
