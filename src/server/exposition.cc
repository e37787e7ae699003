#include "server/exposition.h"

#include <fmt/format.h>

#include <algorithm>

namespace lserve {

void Exposition::Family(std::string_view name, std::string_view help, std::string_view type) {
  name_ = name;
  text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void Exposition::Sample(const MetricLabels& labels, double value, std::string_view suffix) {
  Write(labels, suffix, fmt::format("{:.15g}", value));
}

void Exposition::Sample(const MetricLabels& labels, int64_t value, std::string_view suffix) {
  Write(labels, suffix, std::to_string(value));
}

void Exposition::Write(const MetricLabels& labels, std::string_view suffix,
                       std::string_view value) {
  text_ += name_;
  text_ += suffix;
  char before = '{';
  for (const auto& [label, content] : labels) {
    text_ += fmt::format("{}{}=\"", before, label);
    before = ',';
    for (const char c : content) {
      if (c == '\n') {
        text_ += "\\n";
      } else {
        if (c == '\\' || c == '"') text_ += '\\';
        text_ += c;
      }
    }
    text_ += '"';
  }
  text_ += fmt::format("{} {}\n", labels.empty() ? "" : "}", value);
}

void Histogram::Observe(double value, int64_t times) {
  const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value);  // value <= *at
  counts_[static_cast<size_t>(at - bounds_.begin())] += times;
  sum_ += value * static_cast<double>(times);
}

void Histogram::Write(const MetricLabels& labels, Exposition* out) const {
  MetricLabels with_bound = labels;
  with_bound.emplace_back("le", "");
  int64_t count = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    count += counts_[i];
    with_bound.back().second = i < bounds_.size() ? fmt::format("{:g}", bounds_[i]) : "+Inf";
    out->Sample(with_bound, count, "_bucket");
  }
  out->Sample(labels, sum_, "_sum");
  out->Sample(labels, count, "_count");
}

}  // namespace lserve
