// Head classification without training: what does the answer lose when one KV head alone streams?
// (A direct ablation on recall prompts, in place of DuoAttention's trained gates, arXiv
// 2410.10819.)
//
// Only the end of a prompt (question, template) and the answer are run again with the head's plan
// narrowed; the document before them was read dense. That is what serving does to prompts up to the
// prefill window, and it costs a hundred tokens a head instead of the whole prompt. Heads that
// gather facts while the document is read are therefore judged by their part at the end alone;
// `tail` can be made as long as the prompt.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "eval/probe.h"
#include "sparse/head_pattern.h"

namespace lserve {

struct RecallSample {
  std::string task;
  std::vector<int32_t> prompt, answer;  // token ids
};

// JSON lines with "prompt" and "answer", lists of token ids, and "task"; as `lserve eval generate`
// writes them. Errors name the line. `vocab`: ids must be below it.
Result<std::vector<RecallSample>> LoadSamples(const std::string& path, int vocab);

// How an answer under some plan differs from dense, over its tokens.
struct AnswerChange {
  double kl = 0;          // mean KL(dense || plan), nats
  double nll = 0;         // mean negative log-likelihood of the answer, nats
  bool all_first = true;  // every token of the answer has the largest logit
};
AnswerChange Compare(const LogitRows& dense, const LogitRows& planned,
                     std::span<const int32_t> answer, ThreadPool* pool);

// One sample held at the start of its end: run any number of plans on it.
class HeldSample {
 public:
  // Reads the prompt but for its last `tail` tokens, and runs the end dense.
  HeldSample(Probe* probe, const RecallSample& sample, int tail);
  AnswerChange Under(const std::vector<HeadMap>& plan) const;
  const AnswerChange& dense() const { return dense_change_; }

 private:
  Probe* probe_;
  std::vector<int32_t> end_, answer_;
  LogitRows dense_;
  AnswerChange dense_change_;
};

// Whether the answer suffers, by more than 0.1 nats a token, when every head streams. A sample
// whose facts lie among the sinks or in the window tells nothing about heads.
bool NeedsContext(Probe* probe, const RecallSample& sample, int tail);

struct HeadEffects {
  int layers = 0, kv_heads = 0;
  std::vector<double> kl, nll;  // [layer][kv head], means over samples; nll: change from dense
};

// `progress(done, total)` after every head of every sample.
HeadEffects MeasureHeads(Probe* probe, std::span<const RecallSample> samples, int tail,
                         const std::function<void(int, int)>& progress);

// Gates in [0, 1) that keep the order of the effects: kl / (kl + median of the positive ones).
HeadPattern GatesOf(const HeadEffects& effects);

// How a split, or a budget, does on samples, each beside dense on the same sample.
struct SplitScore {
  double sparsity = 0;
  int budget = 0;  // tokens; 0: everything
  int streaming = 0, samples = 0, dense_right = 0, right = 0, lost = 0, won = 0;
  double kl = 0, nll = 0;  // means; nll: change from dense
};
// One result a pattern and static sparsity, in order: patterns outer. A sample is read once.
std::vector<SplitScore> ScoreSplits(Probe* probe, std::span<const RecallSample> samples, int tail,
                                    std::span<const HeadPattern> patterns,
                                    std::span<const double> sparsities,
                                    const std::function<void(int, int)>& progress);

// The same with the answer written token by token under page selection: one result a budget, the
// heads split alike in all.
std::vector<SplitScore> ScoreBudgets(Probe* probe, std::span<const RecallSample> samples,
                                     const HeadSplit& split, double sparsity,
                                     std::span<const int> budgets,
                                     const std::function<void(int, int)>& progress);

}  // namespace lserve
