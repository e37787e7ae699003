#include "cli/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lserve {
namespace {

std::string PercentName(double percent) { return fmt::format("p{:g}", percent); }

// Adds mean_NAME_ms and its companions.
void AddFigures(const std::string& name, std::vector<double> seconds, const ReportOptions& options,
                nlohmann::json* out) {
  for (double& value : seconds) value *= 1000;
  const double n = static_cast<double>(std::max<size_t>(seconds.size(), 1));
  const double mean = std::accumulate(seconds.begin(), seconds.end(), 0.0) / n;
  double variance = 0;
  for (double value : seconds) variance += (value - mean) * (value - mean) / n;
  const auto at = [&](double percent) {
    return seconds.empty() ? 0 : Percentile(seconds, percent);
  };
  (*out)["mean_" + name + "_ms"] = mean;
  (*out)["median_" + name + "_ms"] = at(50);
  (*out)["std_" + name + "_ms"] = std::sqrt(variance);
  for (double percent : options.percentiles)
    (*out)[PercentName(percent) + "_" + name + "_ms"] = at(percent);
}

double Tpot(const BenchResult& r) {
  return r.output_tokens > 1 ? (r.latency - r.ttft) / (r.output_tokens - 1) : 0;
}

bool IsGood(const BenchResult& r, const ReportOptions& options) {
  return std::all_of(options.goodput.begin(), options.goodput.end(), [&](const auto& bound) {
    const double seconds = bound.first == "ttft"   ? r.ttft
                           : bound.first == "tpot" ? Tpot(r)
                                                   : r.latency;
    return seconds * 1000 <= bound.second;
  });
}

}  // namespace

double Percentile(std::vector<double> values, double percent) {
  std::sort(values.begin(), values.end());
  const double at = percent / 100 * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

nlohmann::json MakeReport(const std::vector<BenchResult>& results, double seconds,
                          const ReportOptions& options) {
  std::vector<double> ttft, tpot, itl, e2el;
  int64_t input = 0, output = 0, cached = 0, failed = 0, good = 0;
  nlohmann::json errors = nlohmann::json::array();
  for (const BenchResult& r : results) {
    if (!r.error.empty()) {
      ++failed;
      if (errors.size() < 10) errors.push_back(r.error);
      continue;
    }
    input += r.input_tokens;
    output += r.output_tokens;
    cached += r.cached_tokens;
    good += IsGood(r, options);
    ttft.push_back(r.ttft);
    if (r.output_tokens > 1) tpot.push_back(Tpot(r));
    itl.insert(itl.end(), r.itl.begin(), r.itl.end());
    e2el.push_back(r.latency);
  }
  nlohmann::json out = {{"duration", seconds},
                        {"completed", ttft.size()},
                        {"failed", failed},
                        {"total_input_tokens", input},
                        {"total_cached_tokens", cached},
                        {"total_output_tokens", output},
                        {"request_throughput", static_cast<double>(ttft.size()) / seconds},
                        {"output_throughput", static_cast<double>(output) / seconds},
                        {"total_token_throughput", static_cast<double>(input + output) / seconds},
                        {"errors", errors}};
  out["request_goodput"] = nullptr;
  if (!options.goodput.empty()) out["request_goodput"] = static_cast<double>(good) / seconds;
  AddFigures("ttft", ttft, options, &out);
  AddFigures("tpot", tpot, options, &out);
  AddFigures("itl", itl, options, &out);
  AddFigures("e2el", e2el, options, &out);
  return out;
}

std::string ReportText(const nlohmann::json& r, const ReportOptions& options) {
  std::string out = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<40}{:<10}\n", name, value);
  };
  const auto whole = [&](const char* name, const char* field) {
    line(name, std::to_string(r.at(field).get<int64_t>()));
  };
  const auto real = [&](const std::string& name, const std::string& field) {
    line(name, fmt::format("{:.2f}", r.at(field).get<double>()));
  };
  whole("Successful requests:", "completed");
  whole("Failed requests:", "failed");
  real("Benchmark duration (s):", "duration");
  whole("Total input tokens:", "total_input_tokens");
  whole("Total cached tokens:", "total_cached_tokens");
  whole("Total generated tokens:", "total_output_tokens");
  real("Request throughput (req/s):", "request_throughput");
  if (!r.at("request_goodput").is_null()) real("Request goodput (req/s):", "request_goodput");
  real("Output token throughput (tok/s):", "output_throughput");
  real("Total token throughput (tok/s):", "total_token_throughput");
  const std::pair<const char*, const char*> parts[] = {
      {"ttft", "Time to First Token"},
      {"tpot", "Time per Output Token (excl. 1st token)"},
      {"itl", "Inter-token Latency"},
      {"e2el", "End-to-end Latency"}};
  for (const auto& [name, title] : parts) {
    out += fmt::format("{:-^50}\n", title);
    std::string upper = name;
    for (char& c : upper) c = static_cast<char>(std::toupper(c));
    real(fmt::format("Mean {} (ms):", upper), fmt::format("mean_{}_ms", name));
    real(fmt::format("Median {} (ms):", upper), fmt::format("median_{}_ms", name));
    for (double percent : options.percentiles)
      real(fmt::format("P{:g} {} (ms):", percent, upper),
           fmt::format("{}_{}_ms", PercentName(percent), name));
  }
  for (const auto& error : r.at("errors")) out += "error: " + error.get<std::string>() + "\n";
  return out + std::string(50, '=') + "\n";
}

}  // namespace lserve
