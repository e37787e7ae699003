#include "eval/head_effects.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/mapped_file.h"

namespace lserve {
namespace {

constexpr size_t kMostSampleBytes = size_t{256} << 20;

Status ReadIds(const nlohmann::json& row, const char* field, int vocab, std::vector<int32_t>* ids) {
  const auto found = row.find(field);
  if (found == row.end() || !found->is_array() || found->empty())
    return InvalidArgument("{} must be a list of token ids that is not empty", field);
  for (const auto& id : *found) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab))
      return InvalidArgument("{}: {} is no token id of this model (vocabulary {})", field,
                             id.dump(), vocab);
    ids->push_back(id.get<int32_t>());
  }
  return Ok();
}

// log(sum(exp(x))) in double.
double LogSum(std::span<const float> x) {
  const float top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const float v : x) sum += std::exp(static_cast<double>(v - top));
  return static_cast<double>(top) + std::log(sum);
}

// One of `samples` samples.
void Count(const AnswerChange& dense, const AnswerChange& change, size_t samples,
           SplitScore* score) {
  ++score->samples;
  score->dense_right += dense.all_first;
  score->right += change.all_first;
  score->lost += dense.all_first && !change.all_first;
  score->won += !dense.all_first && change.all_first;
  score->kl += change.kl / static_cast<double>(samples);
  score->nll += (change.nll - dense.nll) / static_cast<double>(samples);
}

}  // namespace

Result<std::vector<RecallSample>> LoadSamples(const std::string& path, int vocab) {
  Result<std::string> text = ReadFile(path, kMostSampleBytes);
  if (!text.ok()) return text.status();
  std::vector<RecallSample> samples;
  int line = 0;
  for (size_t begin = 0; begin < text->size();) {
    const size_t end = std::min(text->find('\n', begin), text->size());
    const auto row =
        nlohmann::json::parse(text->begin() + static_cast<std::ptrdiff_t>(begin),
                              text->begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    const bool blank = text->find_first_not_of(" \t\r", begin) >= end;
    begin = end + 1;
    ++line;
    if (blank) continue;
    if (!row.is_object()) return InvalidArgument("{}:{}: not a JSON object", path, line);
    RecallSample sample;
    if (const auto task = row.find("task"); task != row.end() && task->is_string())
      sample.task = task->get<std::string>();
    for (const auto& [field, ids] :
         {std::pair("prompt", &sample.prompt), std::pair("answer", &sample.answer)})
      if (Status s = ReadIds(row, field, vocab, ids); !s.ok())
        return s.Annotate(fmt::format("{}:{}", path, line));
    samples.push_back(std::move(sample));
  }
  if (samples.empty()) return InvalidArgument("{}: no samples", path);
  return samples;
}

AnswerChange Compare(const LogitRows& dense, const LogitRows& planned,
                     std::span<const int32_t> answer, ThreadPool* pool) {
  CHECK(dense.rows == planned.rows && dense.rows == static_cast<int>(answer.size()));
  std::vector<AnswerChange> rows(answer.size());
  pool->ParallelFor(dense.rows, [&](int64_t i, int) {
    AnswerChange& out = rows[static_cast<size_t>(i)];
    const std::span<const float> p = dense.row(static_cast<int>(i)),
                                 q = planned.row(static_cast<int>(i));
    const double p_sum = LogSum(p), q_sum = LogSum(q);
    double kl = 0;
    for (size_t v = 0; v < p.size(); ++v) {
      const double log_p = static_cast<double>(p[v]) - p_sum;
      if (log_p < -30) continue;
      kl += std::exp(log_p) * (log_p - (static_cast<double>(q[v]) - q_sum));
    }
    out.kl = std::max(0.0, kl);
    const size_t token = static_cast<size_t>(answer[static_cast<size_t>(i)]);
    out.nll = q_sum - static_cast<double>(q[token]);
    out.all_first = q[token] >= *std::max_element(q.begin(), q.end());
  });
  AnswerChange out;
  for (const AnswerChange& row : rows) {
    out.kl += row.kl / dense.rows;
    out.nll += row.nll / dense.rows;
    out.all_first &= row.all_first;
  }
  return out;
}

HeldSample::HeldSample(Probe* probe, const RecallSample& sample, int tail)
    : probe_(probe), answer_(sample.answer) {
  const int length = static_cast<int>(sample.prompt.size());
  const auto cut = sample.prompt.begin() + std::max(0, length - std::max(1, tail));
  end_.assign(cut, sample.prompt.end());
  end_.insert(end_.end(), answer_.begin(), answer_.end() - 1);
  probe->Begin({sample.prompt.data(), static_cast<size_t>(cut - sample.prompt.begin())});
  const ModelConfig& c = probe->config();
  dense_ = probe->Continue(end_, AllRetrieval(c.layers, c.kv_heads).layers,
                           static_cast<int>(answer_.size()));
  dense_change_ = Compare(dense_, dense_, answer_, probe->pool());
}

AnswerChange HeldSample::Under(const std::vector<HeadMap>& plan) const {
  return Compare(dense_, probe_->Continue(end_, plan, dense_.rows), answer_, probe_->pool());
}

bool NeedsContext(Probe* probe, const RecallSample& sample, int tail) {
  const ModelConfig& c = probe->config();
  const std::vector<HeadClass> classes(static_cast<size_t>(c.kv_heads), HeadClass::kStreaming);
  const std::vector<HeadMap> all(static_cast<size_t>(c.layers), HeadMap(classes));
  return HeldSample(probe, sample, tail).Under(all).kl > 0.1;
}

HeadEffects MeasureHeads(Probe* probe, std::span<const RecallSample> samples, int tail,
                         const std::function<void(int, int)>& progress) {
  const ModelConfig& c = probe->config();
  HeadEffects effects;
  effects.layers = c.layers;
  effects.kv_heads = c.kv_heads;
  const size_t heads = static_cast<size_t>(c.layers) * static_cast<size_t>(c.kv_heads);
  effects.kl.assign(heads, 0);
  effects.nll.assign(heads, 0);
  const int total = static_cast<int>(heads * samples.size());
  int done = 0;
  for (const RecallSample& sample : samples) {
    const HeldSample held(probe, sample, tail);
    for (size_t head = 0; head < heads; ++head) {
      std::vector<HeadMap> plan = AllRetrieval(c.layers, c.kv_heads).layers;
      std::vector<HeadClass> classes(static_cast<size_t>(c.kv_heads), HeadClass::kRetrieval);
      classes[head % classes.size()] = HeadClass::kStreaming;
      plan[head / classes.size()] = HeadMap(classes);
      const AnswerChange change = held.Under(plan);
      effects.kl[head] += change.kl / static_cast<double>(samples.size());
      effects.nll[head] += (change.nll - held.dense().nll) / static_cast<double>(samples.size());
      progress(++done, total);
    }
  }
  return effects;
}

HeadPattern GatesOf(const HeadEffects& effects) {
  HeadPattern pattern;
  pattern.layers = effects.layers;
  pattern.kv_heads = effects.kv_heads;
  pattern.source = "ablation";
  std::vector<double> positive;
  for (const double kl : effects.kl)
    if (kl > 0) positive.push_back(kl);
  double middle = 1;
  if (!positive.empty()) {
    const auto at = positive.begin() + static_cast<std::ptrdiff_t>(positive.size() / 2);
    std::nth_element(positive.begin(), at, positive.end());
    middle = *at;
  }
  for (const double kl : effects.kl)
    pattern.gates.push_back(static_cast<float>(kl > 0 ? kl / (kl + middle) : 0));
  return pattern;
}

std::vector<SplitScore> ScoreSplits(Probe* probe, std::span<const RecallSample> samples, int tail,
                                    std::span<const HeadPattern> patterns,
                                    std::span<const double> sparsities,
                                    const std::function<void(int, int)>& progress) {
  std::vector<SplitScore> scores;
  std::vector<HeadSplit> splits;
  for (const HeadPattern& pattern : patterns)
    for (const double sparsity : sparsities) {
      splits.push_back(SplitHeads(pattern, sparsity));
      SplitScore score;
      score.sparsity = sparsity;
      score.streaming = splits.back().streaming;
      scores.push_back(score);
    }
  const int total = static_cast<int>(splits.size() * samples.size());
  int done = 0;
  for (const RecallSample& sample : samples) {
    const HeldSample held(probe, sample, tail);
    const AnswerChange& dense = held.dense();
    for (size_t i = 0; i < splits.size(); ++i) {
      const AnswerChange change = held.Under(splits[i].layers);
      Count(dense, change, samples.size(), &scores[i]);
      progress(++done, total);
    }
  }
  return scores;
}

std::vector<SplitScore> ScoreBudgets(Probe* probe, std::span<const RecallSample> samples,
                                     const HeadSplit& split, double sparsity,
                                     std::span<const int> budgets,
                                     const std::function<void(int, int)>& progress) {
  std::vector<SplitScore> scores;
  for (const int budget : budgets) {
    SplitScore score;
    score.sparsity = sparsity;
    score.budget = budget;
    score.streaming = split.streaming;
    scores.push_back(score);
  }
  const int total = static_cast<int>(budgets.size() * samples.size());
  const ModelConfig& c = probe->config();
  const std::vector<HeadMap> all = AllRetrieval(c.layers, c.kv_heads).layers;
  int done = 0;
  for (const RecallSample& sample : samples) {
    probe->Begin({sample.prompt.data(), sample.prompt.size() - 1});
    std::vector<int32_t> end = {sample.prompt.back()};
    end.insert(end.end(), sample.answer.begin(), sample.answer.end() - 1);
    const LogitRows dense = probe->Continue(end, all, static_cast<int>(end.size()));
    const AnswerChange base = Compare(dense, dense, sample.answer, probe->pool());
    for (size_t i = 0; i < budgets.size(); ++i) {
      const LogitRows logits = probe->Decode(end, split.layers, budgets[i], nullptr);
      Count(base, Compare(dense, logits, sample.answer, probe->pool()), samples.size(), &scores[i]);
      progress(++done, total);
    }
  }
  return scores;
}

}  // namespace lserve
