// The engine without its thread: sequences in, steps, events out. EngineImpl drives it; tests drive
// it with a model that has no weights. One thread.
#pragma once

#include <list>
#include <memory>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "core/buffer.h"
#include "engine/engine.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/step_time.h"
#include "kv/prefix_cache.h"
#include "model/runner.h"

namespace lserve {

struct CoreOptions {
  int max_running = 32;
  int step_tokens = 512;
  int chunk_unit = kBlockTokens;  // StepBudget
  bool fit_rows = false;
  // A step should take no longer than this: beside decoding sequences, so that their answers keep
  // flowing, and without, so that whoever comes or leaves is noticed soon. Below 0: no limit. 0
  // (beside decoding ones): kAutoSlowdown times what the step takes without prompts, within bounds.
  double step_target_seconds = 0, prompt_step_seconds = 0.5;
  int max_context = 0;
  int default_budget = 4096, default_audit = 0, dense_below = 12288;
  bool deterministic = false;  // answers are not shared, only prompts are
  AttentionMode default_mode = AttentionMode::kLserve;
  std::vector<int32_t> eos;
  // All that keys and values depend on beside tokens and attention mode: see kv/block_hash.h.
  std::string kv_identity;
};

class EngineCore {
 public:
  // Everything outlives the core. `prefix` may be null: nothing is cached. REQUIRES: the pools hold
  // the longest context, the streaming pool a prefill window and a step's chunk at least: else a
  // request could wait for ever.
  EngineCore(const CoreOptions& options, ModelRunner* runner, const Tokenizer* tokenizer,
             KvCache* cache, Planner* planner, PrefixCache* prefix);
  ~EngineCore();

  // Tokens, prompt and answer, that one sequence may have: a dense one keeps all streaming pages,
  // of which there may be fewer. Any thread.
  int LongestContext(AttentionMode mode) const;

  // Takes the request in. It was checked; `seed` is drawn for requests without one.
  void Add(Request request, EventSink sink, uint64_t seed);
  // Ends at the next step.
  void Cancel(const std::string& id);
  // Ends everything with an error: the engine cannot go on.
  void FailAll(const Status& error);

  bool idle() const { return sequences_.empty(); }
  // One step: schedule, run, commit. Where the runner's Health has become an error nothing is
  // committed, and FailAll is due. REQUIRES: !idle().
  void Step();

  // Copies blocks of the prefix cache to its store, about `bytes` of them; whether there are more.
  bool SaveSome(int64_t bytes) { return prefix_ && prefix_->Save(bytes); }

  EngineStats stats() const;

 private:
  struct Part {  // one sequence's share of the step
    Sequence* sequence;
    int tokens;
    int logits = -1;  // first of its rows in the logits
    int logit_count = 0;
    int ask = -1;  // of the step's picks; -1: none
  };

  // engine_core.cc: what a step computes and tells.
  void DropCancelled();
  void DropFinished();
  void Run(std::vector<Part>* parts);
  void Commit(const Part& part, int index);
  std::span<float> Logits(int row);
  Sampled Choose(const Part& part);
  void SendPromptLogprobs(const Part& part);
  void TakeNext(Sequence* sequence, Sampled sampled);
  void Finish(Sequence* sequence, FinishReason reason, const Status& error = {});

  // engine_pages.cc: who has slots and pages.
  void ResumeSwapped();
  void FinishReplays();
  std::vector<Part> Arrange();
  std::vector<Sequence*> Contenders(int running);
  bool Start(Sequence* sequence);
  bool MakeRoom(Sequence* sequence, const int64_t (&pages)[2]);
  void SwapIn(Sequence* sequence);
  void Preempt(Sequence* sequence);
  void CacheBlocks(Sequence* sequence);
  int MostBlocks(const Sequence& sequence) const;
  PrefixHit FindHit(Sequence* sequence);
  bool Restore(Sequence* sequence);
  bool OthersCompute(const Sequence& sequence) const;
  StepBudget Budget(int running) const;
  StepWork DecodeWork() const;
  double KeysRead(const Sequence& sequence, int position) const;
  Candidate Describe(const Sequence& sequence) const;
  int64_t PagesFor(const Sequence& sequence, int len, HeadClass cls) const;
  int64_t StreamingPagesFor(int len, bool prefill) const;
  int64_t Available(HeadClass cls) const;

  CoreOptions options_;
  ModelRunner* runner_;
  const Tokenizer* tokenizer_;
  KvCache* cache_;
  Planner* planner_;
  PrefixCache* prefix_;
  std::list<std::unique_ptr<Sequence>> sequences_;  // in order of arrival
  std::unordered_set<Sequence*> finished_;          // of this step
  uint64_t next_order_ = 0;
  EngineStats counters_;
  StepTime step_time_;

  std::vector<int32_t> tokens_, seq_, pos_, logit_rows_;  // of the step
  std::vector<SeqStep> steps_;
  Buffer logits_;
  Picks picks_;  // of runners that keep the logits
};

}  // namespace lserve
