// One step of a whole model on a GPU, timed: decoding B sequences at a depth, or a chunk of a
// prompt behind a history, for a shape with random weights. The history is not computed: its pages
// hold random numbers, since speed does not depend on which, so that eight sequences of 128K take
// no minute to prepare. `lserve bench` measures whole requests.
//
//   step_bench --random-weights llama-3-8b --kv kv8 --batch 1,8 --depth 8192,131072 --modes
//   lserve,dense
//   step_bench --random-weights llama-3-8b --kv kv8 --batch 0 --chunk 128,512,2048 --beside 0,4
//   --depth 0,131072 --ops
//
// --beside: sequences that decode in the same step as a chunk. --ops: where the time of a chunk's
// step goes: "plan" is the host before the first kernel, the ops are measured one by one.
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
#include "timed_device.h"

namespace lserve {
namespace {

using Clock = std::chrono::steady_clock;

AttentionMode ModeOf(const std::string& name) {
  return name == "dense" ? AttentionMode::kDense : AttentionMode::kLserve;
}

struct Flags {
  EngineFlags engine;
  std::vector<int> batches{1}, depths{8192}, chunks, beside{0};
  bool ops = false;
  std::vector<std::string> modes{"lserve"};
  int steps = 32;
  std::string json;
};

// One step over the rows of several sequences.
struct StepRows {
  std::vector<int32_t> tokens, seq, pos, wanted;
  std::vector<SeqStep> steps;
};

// Sequences at a depth, with pages and without contents.
class Batch {
 public:
  Batch(EngineParts* parts, int sequences, int depth, int extra, AttentionMode mode, bool prefill)
      : parts_(parts), mode_(mode), states_(static_cast<size_t>(sequences)) {
    static uint64_t next_id = 1;
    first_id_ = next_id;
    next_id += states_.size();
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

  size_t size() const { return slots_.size(); }

  // Rows [pos, pos + count) of every sequence join the step.
  void Join(int pos, int count, bool decode, StepRows* rows) {
    for (size_t i = 0; i < slots_.size(); ++i) {
      SeqStep s;
      s.id = first_id_ + i;
      s.slot = slots_[i];
      s.q_begin = static_cast<int>(rows->tokens.size());
      s.q_len = count;
      s.pos = pos;
      s.decode = decode;
      s.mode = mode_;
      s.budget = parts_->options.sparsity.budget;
      s.state = &states_[i];
      for (int t = 0; t < count; ++t) {
        rows->tokens.push_back((pos + t) * 7919 % parts_->config.vocab);
        rows->seq.push_back(s.slot);
        rows->pos.push_back(pos + t);
      }
      if (decode || rows->wanted.empty())
        rows->wanted.push_back(static_cast<int32_t>(rows->tokens.size()) - 1);
      rows->steps.push_back(s);
    }
  }

 private:
  EngineParts* parts_;
  AttentionMode mode_;
  std::vector<SelectionState> states_;
  std::vector<int> slots_;
  uint64_t first_id_;
  bool fits_ = true;
};

struct StepTimes {
  double ms = 0, plan_ms = 0, device_ms = 0;
  VisitCount visits;  // of the first sequence
};

StepTimes RunStep(EngineParts* parts, const StepRows& rows) {
  StepTimes times;
  Picks picks;
  const Clock::time_point begin = Clock::now();
  parts->runner->Forward({rows.tokens, rows.seq, rows.pos, rows.steps, rows.wanted, &picks},
                         parts->planner.get(), parts->cache.get(),
                         Mat(nullptr, 0, parts->config.vocab));
  CHECK(parts->runner->Health().ok());
  const auto since = [&](Clock::time_point end) {
    return std::chrono::duration<double, std::milli>(end - begin).count();
  };
  times.ms = since(Clock::now());
  times.plan_ms = since(static_cast<TimedDevice*>(parts->device.get())->first_kernel());
  times.device_ms = static_cast<DeviceModel*>(parts->runner.get())->device_milliseconds();
  times.visits = parts->planner->visits(0);
  return times;
}

Result<EngineParts> Load(Flags* flags) {
  Result<EngineOptions> options = flags->engine.Finish();
  if (!options.ok()) return options.status();
  EngineParts parts;
  parts.options = *options;
  EngineOptions& o = parts.options;
  o.backend = "cuda";
  o.max_running = std::max({8, *std::max_element(flags->batches.begin(), flags->batches.end()),
                            1 + *std::max_element(flags->beside.begin(), flags->beside.end())});
  if (o.step_tokens == 0) o.step_tokens = 8192;
  Result<ModelFiles> files = ModelOfShape(o.random_weights);
  if (!files.ok()) return files.status();
  parts.config = files->config;
  HeadSplit split = AllRetrieval(parts.config.layers, parts.config.kv_heads);
  std::string path = o.head_pattern;
  if (path.empty()) {
    Result<std::optional<KnownModel>> found = FindKnownModel(*files);
    if (found.ok() && *found) path = (*found)->head_pattern;
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
  parts.device = std::make_unique<TimedDevice>(std::move(*device));
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

void TimeDecode(const Flags& flags, EngineParts* parts, const std::string& name, int depth,
                int count) {
  const int warm = 3 * parts->options.sparsity.reuse_interval;
  Batch sequences(parts, count, depth, warm + flags.steps + 1, ModeOf(name), false);
  if (!sequences.fits()) {
    std::printf("| decode  | %-9s | %-5s | %5d | %7d | does not fit\n", name.c_str(),
                flags.engine.kv.c_str(), count, depth);
    return;
  }
  StepTimes mean;
  for (int i = 0; i < warm + flags.steps; ++i) {
    StepRows rows;
    sequences.Join(depth + i, 1, true, &rows);
    const StepTimes t = RunStep(parts, rows);
    if (i < warm) continue;
    mean.ms += t.ms / flags.steps;
    mean.device_ms += t.device_ms / flags.steps;
    mean.visits = t.visits;
  }
  const double read = 100.0 * static_cast<double>(mean.visits.pages_read) /
                      static_cast<double>(mean.visits.pages_total);
  std::printf("| decode  | %-9s | %-5s | %5d | %7d | %6d | %9.3f | %6.3f | %6.1f |\n", name.c_str(),
              flags.engine.kv.c_str(), count, depth, 1, mean.ms, mean.device_ms, read);
  std::fflush(stdout);
  Report(flags, *parts,
         {{"test", "decode"},
          {"attention", name},
          {"batch", count},
          {"depth", depth},
          {"ms", mean.ms},
          {"read_percent", read}});
}

// Chunks of a prompt, one after the other, behind `depth` tokens or somewhat more, beside `beside`
// sequences that decode.
void TimeChunk(const Flags& flags, EngineParts* parts, const std::string& name, int depth,
               int chunk, int beside) {
  constexpr int kBesideDepth = 4096, kRuns = 4;
  const int warm = parts->options.sparsity.reuse_interval;
  Batch chats(parts, beside, kBesideDepth, warm + 2 * kRuns, ModeOf(name), false);
  Batch prompt(parts, 1, depth, (kRuns + 1) * chunk, ModeOf(name), true);
  if (!chats.fits() || !prompt.fits()) return;
  int turn = 0;
  const auto run = [&] {
    StepRows rows;
    prompt.Join(depth + turn * chunk, chunk, false, &rows);
    chats.Join(kBesideDepth + turn++, 1, true, &rows);
    return RunStep(parts, rows);
  };
  StepTimes best;
  for (int i = 0; i < kRuns; ++i) {
    const StepTimes t = run();
    if (i > 0 && (best.ms == 0 || t.ms < best.ms)) best = t;
  }
  const double read = 100.0 * static_cast<double>(best.visits.prefill_blocks_read) /
                      static_cast<double>(best.visits.prefill_blocks_total);
  nlohmann::ordered_json line = {{"test", "prefill"},   {"attention", name}, {"tokens", chunk},
                                 {"beside", beside},    {"depth", depth},    {"ms", best.ms},
                                 {"read_percent", read}};
  std::printf("| prefill | %-9s | %-5s | %5d | %7d | %6d | %9.3f | %6.3f | %6.1f |", name.c_str(),
              flags.engine.kv.c_str(), 1 + beside, depth, chunk, best.ms, best.device_ms, read);
  if (flags.ops) {
    auto* device = static_cast<TimedDevice*>(parts->device.get());
    device->Start();
    run();
    std::printf(" plan %.2f", best.plan_ms);
    line["plan_ms"] = best.plan_ms;
    for (const auto& [op, ms] : device->Stop()) {
      std::printf(", %s %.2f", op.c_str(), ms);
      line[op + "_ms"] = ms;
    }
  }
  std::printf("\n");
  std::fflush(stdout);
  Report(flags, *parts, std::move(line));
}

int Main(Flags* flags) {
  Result<EngineParts> parts = Load(flags);
  if (!parts.ok()) return Fail(parts.status());
  std::printf(
      "| test    | attention | KV    | batch |   depth | tokens | ms a step | on GPU | read %% "
      "|\n");
  std::printf(
      "|---------|-----------|-------|-------|---------|--------|-----------|--------|--------|\n");
  for (const std::string& name : flags->modes)
    for (int depth : flags->depths) {
      for (int batch : flags->batches)
        if (batch > 0) TimeDecode(*flags, &*parts, name, depth, batch);
      for (int beside : flags->beside)
        for (int chunk : flags->chunks) TimeChunk(*flags, &*parts, name, depth, chunk, beside);
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
  app.add_option("--beside", flags.beside, "sequences that decode in the step of a chunk")
      ->delimiter(',');
  app.add_flag("--ops", flags.ops, "the steps of chunks op by op");
  app.add_option("--modes", flags.modes, "lserve, dense")->delimiter(',');
  app.add_option("--steps", flags.steps, "decode steps to average over");
  app.add_option("--json", flags.json, "append JSON lines to this file");
  flags.engine.AddTo(&app);
  CLI11_PARSE(app, argc, argv);
  return lserve::Main(&flags);
}
