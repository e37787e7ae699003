// Figures of a load test, with the names that `vllm bench serve` gives them. Pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/bench_client.h"

namespace lserve {

// Sorted by the caller or not; linear interpolation as numpy's. REQUIRES: values is not empty.
double Percentile(std::vector<double> values, double percent);

struct ReportOptions {
  std::vector<double> percentiles = {99};
  // Milliseconds that a request may take to count as good: names ttft, tpot, e2el. Empty: all do.
  std::vector<std::pair<std::string, double>> goodput;
};

// `seconds`: of the whole run. An object with completed, failed, *_throughput, and mean, median,
// std and percentiles of ttft, tpot, itl and e2el in ms.
nlohmann::json MakeReport(const std::vector<BenchResult>& results, double seconds,
                          const ReportOptions& options);
std::string ReportText(const nlohmann::json& report, const ReportOptions& options);

}  // namespace lserve
