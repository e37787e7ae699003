// One step of a whole model on a GPU, timed: decoding B sequences at a depth, or a chunk of a
// prompt behind a history, for a shape with random weights. The history is not computed: its pages
// hold random numbers, since speed does not depend on which, so that eight sequences of 128K take
// no minute to prepare. `lserve bench` measures whole requests.
//
//   step_bench --random-weights llama-3-8b --kv kv8 --batch 1,8 --depth 8192,131072 --modes
//   lserve,dense
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/options.h"
#include "engine/engine_device.h"
#include "model/device_model.h"
#include "model/fingerprint.h"
#include "model/shapes.h"
#include "sparse/head_pattern.h"

namespace lserve {
namespace {

using Clock = std::chrono::steady_clock;

struct Flags {
  EngineFlags engine;
  std::vector<int> batches{1}, depths{8192}, chunks;
  std::vector<std::string> modes{"lserve"};
  int steps = 32;
  std::string json;
};

// Sequences at a depth, with pages and without contents.
class Batch {
 public:
  Batch(EngineParts* parts, int sequences, int depth, int extra, AttentionMode mode, bool prefill)
      : parts_(parts), mode_(mode), states_(static_cast<size_t>(sequences)) {
    for (int i = 0; i < sequences && fits_; ++i) {
      const int slot = parts->cache->AllocateSlot();
      if (slot < 0) {
        fits_ = false;
        break;
      }
      slots_.push_back(slot);
      states_[static_cast<size_t>(i)].prompt_len = depth;
      // Piece by piece, releasing on the way: the streaming pool never holds a whole sequence.
      for (int len = 0; len < depth + extra && fits_;) {
        len = std::min(depth + extra, len + 2048);
        fits_ = parts->cache->Extend(slot, len);
        if (fits_ && mode == AttentionMode::kLserve)
          parts->cache->ReleaseStreaming(
              slot, parts->planner->SinkBlocks(),
              parts->planner->FirstWindowBlock(std::min(len, depth), prefill));
      }
    }
  }
  ~Batch() {
    for (int slot : slots_) parts_->cache->FreeSlot(slot);
  }
  bool fits() const { return fits_; }

  // Seconds of one step at [pos, pos + count).
  double Step(int pos, int count, bool decode) {
    std::vector<int32_t> tokens, seq, positions, wanted, best(slots_.size());
    std::vector<SeqStep> steps;
    for (size_t i = 0; i < slots_.size(); ++i) {
      SeqStep s;
      s.slot = slots_[i];
      s.q_begin = static_cast<int>(tokens.size());
      s.q_len = count;
      s.pos = pos;
      s.decode = decode;
      s.mode = mode_;
      s.budget = parts_->options.sparsity.budget;
      s.state = &states_[i];
      for (int t = 0; t < count; ++t) {
        tokens.push_back((pos + t) * 7919 % parts_->config.vocab);
        seq.push_back(s.slot);
        positions.push_back(pos + t);
      }
      wanted.push_back(static_cast<int32_t>(tokens.size()) - 1);
      steps.push_back(s);
    }
    const Clock::time_point begin = Clock::now();
    parts_->runner->Forward({tokens, seq, positions, steps, wanted, best}, parts_->planner.get(),
                            parts_->cache.get(), Mat(nullptr, 0, parts_->config.vocab));
    CHECK(parts_->runner->Health().ok());
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    visits_ = parts_->planner->visits(0);
    device_ms_ = static_cast<DeviceModel*>(parts_->runner.get())->device_milliseconds();
    return seconds;
  }
  double device_ms() const { return device_ms_; }
  const VisitCount& visits() const { return visits_; }

 private:
  EngineParts* parts_;
  AttentionMode mode_;
  std::vector<SelectionState> states_;
  std::vector<int> slots_;
  bool fits_ = true;
  VisitCount visits_;
  double device_ms_ = 0;
};

Result<EngineParts> Load(Flags* flags) {
  Result<EngineOptions> options = flags->engine.Finish();
  if (!options.ok()) return options.status();
  EngineParts parts;
  parts.options = *options;
  EngineOptions& o = parts.options;
  o.backend = "cuda";
  o.max_running = std::max(8, *std::max_element(flags->batches.begin(), flags->batches.end()));
  if (o.step_tokens == 0) o.step_tokens = 8192;
  Result<ModelFiles> files = ModelOfShape(o.random_weights);
  if (!files.ok()) return files.status();
  parts.config = files->config;
  HeadSplit split = AllRetrieval(parts.config.layers, parts.config.kv_heads);
  std::string path = o.head_pattern;
  if (path.empty()) {
    Result<std::optional<std::string>> found = FindHeadPattern(*files);
    if (found.ok() && *found) path = **found;
  }
  if (!path.empty() && path != "none") {
    Result<HeadPattern> pattern = LoadHeadPattern(path);
    if (!pattern.ok()) return pattern.status();
    split = SplitHeads(*pattern, o.sparsity.static_sparsity);
  }
  KvCacheConfig kv;
  kv.layers = split.layers;
  kv.codec = KvCodec(o.kv.k, o.kv.v, parts.config.head_dim);
  Result<std::unique_ptr<Device>> device = OpenDeviceFor(o);
  if (!device.ok()) return device.status();
  parts.device = std::move(*device);
  parts.pool = std::make_unique<ThreadPool>(0);
  size_t bytes = 0;
  if (Status s = LoadOnDevice(*files, std::move(kv), &parts, &bytes); !s.ok()) return s;
  // Random contents. As 16-bit floats of a normal distribution they are ordinary numbers in every
  // codec.
  const KvCacheConfig& config = parts.cache->config();
  for (int l = 0; l < parts.config.layers; ++l) {
    const KvView view = parts.cache->View(l);
    for (int c : {0, 1}) {
      const PoolView& p = view.pools[c];
      parts.device->FillNormal(reinterpret_cast<uint16_t*>(p.pages),
                               config.pages[c] * p.page_bytes / 2, 1,
                               static_cast<uint64_t>(2 * l + c));
      if (p.stats)
        parts.device->FillNormal(p.stats, config.pages[c] * p.stats_page_elements, 1,
                                 static_cast<uint64_t>(1000 + l));
    }
  }
  if (Status s = parts.device->Synchronize(); !s.ok()) return s;
  std::fprintf(stderr, "%s: weights %.2f GiB, %lld and %lld pages, longest context %d\n",
               parts.device->info().name.c_str(), static_cast<double>(bytes) / (1 << 30),
               static_cast<long long>(config.pages[0]), static_cast<long long>(config.pages[1]),
               parts.max_context);
  return parts;
}

void Report(const Flags& flags, const EngineParts& parts, nlohmann::ordered_json line) {
  line["card"] = parts.device->info().name;
  line["shape"] = parts.options.random_weights;
  line["kv"] = flags.engine.kv;
  if (!flags.json.empty()) {
    if (FILE* f = std::fopen(flags.json.c_str(), "a")) {
      std::fprintf(f, "%s\n", line.dump().c_str());
      std::fclose(f);
    }
  }
}

int Main(Flags* flags) {
  Result<EngineParts> parts = Load(flags);
  if (!parts.ok()) return Fail(parts.status());
  std::printf(
      "| test    | attention | KV    | batch |   depth | tokens | ms a step | on GPU | read %% "
      "|\n");
  std::printf(
      "|---------|-----------|-------|-------|---------|--------|-----------|--------|--------|\n");
  for (const std::string& name : flags->modes) {
    const AttentionMode mode = name == "dense" ? AttentionMode::kDense : AttentionMode::kLserve;
    for (int depth : flags->depths) {
      for (int batch : flags->batches) {
        const int warm = 3 * parts->options.sparsity.reuse_interval;
        Batch sequences(&*parts, batch, depth, warm + flags->steps + 1, mode, false);
        if (!sequences.fits()) {
          std::printf("| decode  | %-9s | %-5s | %5d | %7d | does not fit\n", name.c_str(),
                      flags->engine.kv.c_str(), batch, depth);
          continue;
        }
        std::vector<double> seconds;
        double device_ms = 0;
        for (int i = 0; i < warm + flags->steps; ++i) {
          const double s = sequences.Step(depth + i, 1, true);
          if (i < warm) continue;
          seconds.push_back(s);
          device_ms += sequences.device_ms() / flags->steps;
        }
        const double ms =
            1000 * std::accumulate(seconds.begin(), seconds.end(), 0.0) / flags->steps;
        const VisitCount& v = sequences.visits();
        const double read =
            100.0 * static_cast<double>(v.pages_read) / static_cast<double>(v.pages_total);
        std::printf("| decode  | %-9s | %-5s | %5d | %7d | %6d | %9.3f | %6.3f | %6.1f |\n",
                    name.c_str(), flags->engine.kv.c_str(), batch, depth, 1, ms, device_ms, read);
        std::fflush(stdout);
        Report(*flags, *parts,
               {{"test", "decode"},
                {"attention", name},
                {"batch", batch},
                {"depth", depth},
                {"ms", ms},
                {"read_percent", read}});
      }
      for (int chunk : flags->chunks) {
        Batch sequence(&*parts, 1, depth, chunk, mode, true);
        if (!sequence.fits()) continue;
        std::vector<double> seconds;
        for (int i = 0; i < 4; ++i) seconds.push_back(sequence.Step(depth, chunk, false));
        const double ms = 1000 * *std::min_element(seconds.begin() + 1, seconds.end());
        const VisitCount& v = sequence.visits();
        const double read = 100.0 * static_cast<double>(v.prefill_blocks_read) /
                            static_cast<double>(v.prefill_blocks_total);
        std::printf("| prefill | %-9s | %-5s | %5d | %7d | %6d | %9.3f | %6.3f | %6.1f |\n",
                    name.c_str(), flags->engine.kv.c_str(), 1, depth, chunk, ms,
                    sequence.device_ms(), read);
        std::fflush(stdout);
        Report(*flags, *parts,
               {{"test", "prefill"},
                {"attention", name},
                {"tokens", chunk},
                {"depth", depth},
                {"ms", ms},
                {"read_percent", read}});
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace lserve

int main(int argc, char** argv) {
  CLI::App app("Times one step of a whole model on a GPU");
  lserve::Flags flags;
  app.add_option("--batch", flags.batches, "sequences that decode together")->delimiter(',');
  app.add_option("--depth", flags.depths, "tokens behind each")->delimiter(',');
  app.add_option("--chunk", flags.chunks, "prompt chunks to time at each depth")->delimiter(',');
  app.add_option("--modes", flags.modes, "lserve, dense")->delimiter(',');
  app.add_option("--steps", flags.steps, "decode steps to average over");
  app.add_option("--json", flags.json, "append JSON lines to this file");
  flags.engine.AddTo(&app);
  CLI11_PARSE(app, argc, argv);
  return lserve::Main(&flags);
}
