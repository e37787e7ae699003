// Prometheus' text format (version 0.0.4), as far as lserve needs it: counters, gauges, histograms
// and summaries without quantiles.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lserve {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

// Writes families one after the other; the samples of a family follow its line. One thread.
class Exposition {
 public:
  // `type`: counter, gauge, histogram or summary.
  void Family(std::string_view name, std::string_view help, std::string_view type);
  // A sample of the last family; `suffix` is appended to its name.
  void Sample(const MetricLabels& labels, double value, std::string_view suffix = "");
  void Sample(const MetricLabels& labels, int64_t value, std::string_view suffix = "");

  const std::string& text() const { return text_; }

 private:
  void Write(const MetricLabels& labels, std::string_view suffix, std::string_view value);

  std::string name_, text_;
};

// Counts of values up to each of some bounds, and their sum. One thread at a time.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds)  // ascending
      : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void Observe(double value, int64_t times = 1);
  // The samples of a family of type histogram.
  void Write(const MetricLabels& labels, Exposition* out) const;

 private:
  const std::vector<double> bounds_;
  std::vector<int64_t> counts_;  // between two bounds; the last: above all
  double sum_ = 0;
};

}  // namespace lserve
