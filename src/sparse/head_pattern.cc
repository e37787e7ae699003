#include "sparse/head_pattern.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "core/mapped_file.h"

namespace lserve {

Result<HeadPattern> LoadHeadPattern(const std::string& path) {
  Result<std::string> text = ReadFile(path, size_t{16} << 20);
  if (!text.ok()) return text.status();
  HeadPattern pattern;
  pattern.source = path;
  size_t line_begin = 0;
  for (int line = 1; line_begin < text->size(); ++line) {
    const size_t line_end = std::min(text->find('\n', line_begin), text->size());
    const char* p = text->data() + line_begin;
    const char* end = text->data() + line_end;
    line_begin = line_end + 1;
    int columns = 0;
    while (p < end) {
      if (*p == '\t' || *p == ' ' || *p == '\r') {
        ++p;
        continue;
      }
      float gate = 0;
      const auto [next, error] = std::from_chars(p, end, gate);
      if (error != std::errc() || !std::isfinite(gate))
        return InvalidArgument("{}:{}: not a gate: '{}'", path, line, std::string(p, end));
      pattern.gates.push_back(std::clamp(gate, 0.0f, 1.0f));
      ++columns;
      p = next;
    }
    if (columns == 0) continue;
    if (pattern.layers > 0 && columns != pattern.kv_heads)
      return InvalidArgument("{}:{}: {} columns, the rows before have {}", path, line, columns,
                             pattern.kv_heads);
    pattern.kv_heads = columns;
    ++pattern.layers;
  }
  if (pattern.layers == 0) return InvalidArgument("{}: no rows", path);
  return pattern;
}

HeadSplit SplitHeads(const HeadPattern& pattern, double static_sparsity) {
  const size_t heads = pattern.gates.size();
  // Smallest gates stream first; among equal gates the later head does.
  std::vector<size_t> order(heads);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return pattern.gates[a] != pattern.gates[b] ? pattern.gates[a] < pattern.gates[b] : a > b;
  });
  // At or above the quantile: with distinct gates, position q (n - 1) of the sorted list, rounded
  // up, is the first retrieval head.
  size_t streaming = 0;
  if (static_sparsity >= 1)
    streaming = heads;
  else if (static_sparsity > 0)
    streaming =
        static_cast<size_t>(std::ceil(static_sparsity * static_cast<double>(heads - 1) - 1e-9));
  HeadSplit split;
  std::vector<HeadClass> classes(heads, HeadClass::kRetrieval);
  double lost = 0, sum = 0;
  for (float gate : pattern.gates) sum += gate;
  for (size_t i = 0; i < streaming; ++i) {
    classes[order[i]] = HeadClass::kStreaming;
    lost += pattern.gates[order[i]];
  }
  for (int layer = 0; layer < pattern.layers; ++layer) {
    const auto first = classes.begin() + layer * pattern.kv_heads;
    split.layers.emplace_back(std::vector<HeadClass>(first, first + pattern.kv_heads));
  }
  split.streaming = static_cast<int>(streaming);
  split.total = static_cast<int>(heads);
  split.lost_gate_mass = sum > 0 ? lost / sum : 0;
  return split;
}

HeadSplit AllRetrieval(int layers, int kv_heads) {
  HeadSplit split;
  split.total = layers * kv_heads;
  for (int i = 0; i < layers; ++i)
    split.layers.emplace_back(
        std::vector<HeadClass>(static_cast<size_t>(kv_heads), HeadClass::kRetrieval));
  return split;
}

}  // namespace lserve
