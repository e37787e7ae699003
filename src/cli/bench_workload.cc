#include "cli/bench_workload.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "core/mapped_file.h"

namespace lserve {
namespace {

using Random = std::mt19937_64;

int Around(int length, double ratio, Random* random) {
  const int low = std::max(1, static_cast<int>(std::lround(length * (1 - ratio))));
  const int high = std::max(low, static_cast<int>(std::lround(length * (1 + ratio))));
  return std::uniform_int_distribution<int>(low, high)(*random);
}

void Append(std::vector<int32_t>* to, const std::vector<int32_t>& more) {
  to->insert(to->end(), more.begin(), more.end());
}

Result<std::vector<BenchRequest>> FromTrace(const WorkloadOptions& o) {
  Result<std::string> text = ReadFile(o.trace_path);
  if (!text.ok()) return text.status().Annotate("--dataset-path");
  std::vector<BenchRequest> out;
  std::istringstream lines(*text);
  std::string line;
  double begin = 0;
  for (int number = 1; std::getline(lines, line) && static_cast<int>(out.size()) < o.num_prompts;
       ++number) {
    if (line.empty()) continue;
    try {
      const nlohmann::json json = nlohmann::json::parse(line);
      BenchRequest request;
      const int length = json.at("input_length").get<int>();
      request.output_tokens = json.at("output_length").get<int>();
      if (length < 1 || length > 100'000'000 || request.output_tokens < 1)
        return InvalidArgument("--dataset-path {}: line {}: lengths must be at least 1",
                               o.trace_path, number);
      const double at = json.value("timestamp", 0.0) / 1000;
      if (out.empty()) begin = at;
      request.at = std::max(0.0, at - begin);
      for (const auto& id : json.value("hash_ids", nlohmann::json::array()))
        Append(&request.prompt, RandomTokens(o, id.get<uint64_t>() * 2 + 1, kTraceBlock));
      if (static_cast<int>(request.prompt.size()) < length)
        Append(&request.prompt, RandomTokens(o, static_cast<uint64_t>(number) * 2,
                                             length - static_cast<int>(request.prompt.size())));
      request.prompt.resize(static_cast<size_t>(length));
      out.push_back(std::move(request));
    } catch (const nlohmann::json::exception& e) {
      return InvalidArgument("--dataset-path {}: line {}: {}", o.trace_path, number, e.what());
    }
  }
  if (out.empty()) return InvalidArgument("--dataset-path {}: holds no request", o.trace_path);
  return out;
}

}  // namespace

std::vector<int32_t> RandomTokens(const WorkloadOptions& o, uint64_t seed, int length) {
  Random random(o.seed * 0x9e3779b97f4a7c15ull + seed);
  std::uniform_int_distribution<int32_t> token(o.first_token, o.last_token);
  std::vector<int32_t> out(static_cast<size_t>(length));
  for (int32_t& id : out) id = token(random);
  return out;
}

Result<std::vector<BenchRequest>> MakeWorkload(const WorkloadOptions& o) {
  if (o.dataset == "trace") return FromTrace(o);
  Random random(o.seed);
  std::vector<BenchRequest> out(static_cast<size_t>(std::max(1, o.num_prompts)));
  const bool repeats = o.dataset == "prefix_repetition";
  for (size_t i = 0; i < out.size(); ++i) {
    const int body = repeats ? o.suffix_len : o.input_len;
    const uint64_t prefix = repeats ? i % static_cast<size_t>(std::max(1, o.num_prefixes)) : 0;
    out[i].prompt = RandomTokens(o, 2 * prefix + 1, o.prefix_len);
    Append(&out[i].prompt, RandomTokens(o, 2 * i + 2, Around(body, o.range_ratio, &random)));
    out[i].output_tokens = Around(o.output_len, o.range_ratio, &random);
  }
  if (o.request_rate > 0) {
    std::gamma_distribution<double> gap(o.burstiness, 1 / (o.request_rate * o.burstiness));
    double at = 0;
    for (BenchRequest& request : out) request.at = at += gap(random);
  }
  return out;
}

}  // namespace lserve
