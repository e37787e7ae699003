// What a KV codec costs on a real text. Keys and values are computed with floats in the cache
// (`ref`, kv32) and stored again in every codec: the error of what comes back, over all layers and
// in the worst one. Then the end of the text is predicted by `cpu` over caches of these codecs and
// compared with the floats' prediction.
//
//   kv_error qwen2.5-coder-0.5b.gguf README.md --tokens 1024
//
// Errors are root mean squares, relative to the vectors and, as "of what differs", to the vectors
// less their mean over the text: what all keys of a head have in common moves no softmax, but takes
// part of a code's range (the key biases of Qwen2). Then how much wider than the keys of a logical
// page its stored statistics are, as a share of that width, over all channels together.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "eval/head_effects.h"
#include "eval/probe.h"
#include "model/weights.h"
#include "plan/hadamard.h"
#include "sparse/head_pattern.h"

namespace lserve {
namespace {

struct Flags {
  std::string model, text;
  int tokens = 1024, predicted = 128, threads = 0;
};

// Sums of squares over the tokens of one KV head.
struct Squares {
  double error = 0, whole = 0, varying = 0;
  void operator+=(const Squares& other) {
    error += other.error;
    whole += other.whole;
    varying += other.varying;
  }
  double of_whole() const { return std::sqrt(error / whole); }
  double of_varying() const { return std::sqrt(error / varying); }
};

// One head's keys or values: [token][channel].
using Rows = std::vector<std::vector<float>>;

Squares StoredAgain(Rows rows, KvType type, bool keys) {
  const int dim = static_cast<int>(rows[0].size());
  const KvCodec codec(type, type, dim);
  std::vector<std::byte> slice(codec.slice_bytes());
  std::vector<float> back(rows[0].size());
  std::vector<double> mean(rows[0].size());
  if (keys && TransformsKeys(codec))
    for (std::vector<float>& row : rows) HadamardTransform(row.data(), dim);
  for (const std::vector<float>& row : rows)
    for (size_t c = 0; c < row.size(); ++c) mean[c] += row[c] / static_cast<double>(rows.size());
  Squares sum;
  for (const std::vector<float>& row : rows) {
    if (keys) {
      codec.EncodeK(row.data(), 0, slice.data());
      codec.DecodeK(slice.data(), 0, back.data());
    } else {
      codec.EncodeV(row.data(), 0, slice.data());
      codec.DecodeV(slice.data(), 0, back.data());
    }
    for (size_t c = 0; c < row.size(); ++c) {
      sum.error += std::pow(static_cast<double>(back[c]) - row[c], 2);
      sum.whole += std::pow(static_cast<double>(row[c]), 2);
      sum.varying += std::pow(row[c] - mean[c], 2);
    }
  }
  return sum;
}

Rows HeadRows(const Probe& probe, int layer, int head, int tokens, bool keys) {
  const KvCodec codec(KvType::kKv32, KvType::kKv32, probe.config().head_dim);
  Rows rows(static_cast<size_t>(tokens), std::vector<float>(static_cast<size_t>(codec.dim())));
  for (int t = 0; t < tokens; ++t) {
    const std::byte* slice = probe.Slice(layer, head, t / kBlockTokens);
    float* row = rows[static_cast<size_t>(t)].data();
    keys ? codec.DecodeK(slice, t % kBlockTokens, row)
         : codec.DecodeV(slice, t % kBlockTokens, row);
  }
  return rows;
}

constexpr std::array kTypes = {KvType::kKv16, KvType::kKv8, KvType::kKv4};
constexpr std::array kNames = {"kv16", "kv8", "kv4"};

void PrintErrors(const Probe& probe, int tokens) {
  const ModelConfig& c = probe.config();
  fmt::print("{:8}{:>10}{:>18}{:>28}\n", "", "error", "of what differs",
             "of what differs, worst layer");
  for (const bool keys : {true, false}) {
    std::array<Squares, kTypes.size()> all{};
    std::array<double, kTypes.size()> worst{};
    std::array<int, kTypes.size()> where{};
    for (int layer = 0; layer < c.layers; ++layer) {
      std::array<Squares, kTypes.size()> of_layer{};
      for (int head = 0; head < c.kv_heads; ++head) {
        const Rows rows = HeadRows(probe, layer, head, tokens, keys);
        for (size_t i = 0; i < kTypes.size(); ++i)
          of_layer[i] += StoredAgain(rows, kTypes[i], keys);
      }
      for (size_t i = 0; i < kTypes.size(); ++i) {
        all[i] += of_layer[i];
        if (of_layer[i].of_varying() > worst[i]) {
          worst[i] = of_layer[i].of_varying();
          where[i] = layer;
        }
      }
    }
    for (size_t i = 0; i < kTypes.size(); ++i)
      fmt::print("{} {:6}{:>9.3f}%{:>17.3f}%{:>16.3f}% (layer {})\n", keys ? "K" : "V", kNames[i],
                 100 * all[i].of_whole(), 100 * all[i].of_varying(), 100 * worst[i], where[i]);
  }
}

void PrintWidths(const Probe& probe, int tokens) {
  const ModelConfig& c = probe.config();
  const KvCodec codec(KvType::kKv32, KvType::kKv32, c.head_dim);
  const size_t dim = static_cast<size_t>(c.head_dim);
  std::vector<float> key(dim), low(dim), high(dim), stored_low(dim), stored_high(dim);
  fmt::print("\n{:30}{:>10}{:>26}\n", "statistics of 16 keys", "wider by", "in the worst head");
  for (const int bits : {16, 8}) {
    const KeyStats stats{16, c.head_dim, bits};
    std::vector<uint16_t> slice(stats.slice_bytes() / 2);
    double added = 0, width = 0, worst = 0;
    int where = 0;
    for (int layer = 0; layer < c.layers; ++layer)
      for (int head = 0; head < c.kv_heads; ++head) {
        double added_here = 0, width_here = 0;
        for (int begin = 0; begin + 16 <= tokens; begin += 16) {
          const std::byte* keys = probe.Slice(layer, head, begin / kBlockTokens);
          const int page = begin % kBlockTokens / 16;
          stats.Store(codec, keys, page, slice.data());
          stats.Decode(slice.data(), page, stored_low.data(), stored_high.data());
          codec.DecodeK(keys, page * 16, low.data());
          high = low;
          for (int t = 1; t < 16; ++t) {
            codec.DecodeK(keys, page * 16 + t, key.data());
            for (size_t i = 0; i < dim; ++i) {
              low[i] = std::min(low[i], key[i]);
              high[i] = std::max(high[i], key[i]);
            }
          }
          for (size_t i = 0; i < dim; ++i) {
            width_here += high[i] - low[i];
            added_here += low[i] - stored_low[i] + (stored_high[i] - high[i]);
          }
        }
        added += added_here, width += width_here;
        if (added_here / width_here > worst) worst = added_here / width_here, where = layer;
      }
    fmt::print("{:2} bits{:23}{:>9.2f}%{:>14.2f}% (layer {})\n", bits, "", 100 * added / width,
               100 * worst, where);
  }
}

Status Measure(const Flags& flags) {
  Result<ModelFiles> files = OpenModel(flags.model);
  if (!files.ok()) return files.status();
  Result<std::string> text = ReadFile(flags.text, size_t{64} << 20);
  if (!text.ok()) return text.status();
  Result<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(files->tokenizer);
  if (!tokenizer.ok()) return tokenizer.status();
  std::vector<int32_t> ids = (*tokenizer)->Encode(*text, true, false);
  if (static_cast<int>(ids.size()) < flags.tokens + 1)
    return InvalidArgument("{}: {} tokens, --tokens {} and one to predict are needed", flags.text,
                           ids.size(), flags.tokens);
  const auto after = ids.begin() + flags.tokens - flags.predicted;
  const std::vector<int32_t> begin(ids.begin(), after), end(after, after + flags.predicted),
      next(after + 1, after + 1 + flags.predicted);

  ThreadPool pool(flags.threads);
  const HeadSplit pattern = AllRetrieval(files->config.layers, files->config.kv_heads);
  const auto predict = [&](const char* backend, KvTypes kv, bool errors) -> Result<LogitRows> {
    ProbeOptions options;
    options.backend = backend;
    options.threads = flags.threads;
    options.kv = kv;
    options.max_length = flags.tokens;
    Result<std::unique_ptr<Probe>> probe = Probe::Make(*files, options);
    if (!probe.ok()) return probe.status();
    (*probe)->Begin(begin);
    LogitRows rows = (*probe)->Continue(end, pattern.layers, flags.predicted);
    if (errors) {
      PrintErrors(**probe, flags.tokens);
      PrintWidths(**probe, flags.tokens);
    }
    return rows;
  };
  Result<LogitRows> exact = predict("ref", {KvType::kKv32, KvType::kKv32}, true);
  if (!exact.ok()) return exact.status();
  fmt::print("\n{:8}{:>22}{:>12}   over the last {} tokens; kv32 (ref): {:.4f} nats a token\n", "",
             "KL to kv32, nats", "loss", flags.predicted, Compare(*exact, *exact, next, &pool).nll);
  for (const KvTypes& kv : {KvTypes{KvType::kKv16, KvType::kKv16},
                            {KvType::kKv8, KvType::kKv8},
                            {KvType::kKv8, KvType::kKv4},
                            {KvType::kKv4, KvType::kKv4}}) {
    Result<LogitRows> rows = predict("cpu", kv, false);
    if (!rows.ok()) return rows.status();
    const AnswerChange change = Compare(*exact, *rows, next, &pool);
    fmt::print("{:8}{:>22.2e}{:>12.4f}\n", KvCodec(kv.k, kv.v, files->config.head_dim).name(),
               change.kl, change.nll);
    std::fflush(stdout);
  }
  return Ok();
}

}  // namespace
}  // namespace lserve

int main(int argc, char** argv) {
  CLI::App app(
      "Error of keys and values in each KV codec, and what it does to predictions; width of key "
      "statistics");
  lserve::Flags flags;
  app.add_option("model", flags.model, "GGUF file or Hugging Face directory")->required();
  app.add_option("text", flags.text, "Text file")->required();
  app.add_option("--tokens", flags.tokens, "Tokens of the text")
      ->check(CLI::Range(2, 65536))
      ->capture_default_str();
  app.add_option("--predicted", flags.predicted, "The last of these, whose successors are judged")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "0: all cores")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  flags.predicted = std::min(flags.predicted, flags.tokens - 1);
  const lserve::Status status = lserve::Measure(flags);
  if (!status.ok()) fmt::print(stderr, "kv_error: {}\n", status.message());
  return status.ok() ? 0 : 1;
}
