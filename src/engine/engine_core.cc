#include "engine/engine_core.h"

#include <algorithm>

namespace lserve {
namespace {

constexpr int64_t kSaveBytes = int64_t{4} << 20;  // copied to the prefix cache's store in a step

double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAborted:
      return "abort";
    case FinishReason::kError:
      return "error";
    case FinishReason::kNone:
      break;
  }
  return "";
}

EngineCore::EngineCore(const CoreOptions& options, ModelRunner* runner, const Tokenizer* tokenizer,
                       KvCache* cache, Planner* planner, PrefixCache* prefix)
    : options_(options),
      runner_(runner),
      tokenizer_(tokenizer),
      cache_(cache),
      planner_(planner),
      prefix_(prefix) {
  CHECK(int64_t{options.max_context} <= cache->total_pages(HeadClass::kRetrieval) * kBlockTokens);
  CHECK(StreamingPagesFor(options.max_context, true) <= cache->total_pages(HeadClass::kStreaming));
}

EngineCore::~EngineCore() {
  for (auto& s : sequences_) s->cancelled = true;
  DropCancelled();
}

void EngineCore::Add(Request request, EventSink sink, uint64_t seed) {
  auto s = std::make_unique<Sequence>(std::move(request), std::move(sink), seed, options_.eos,
                                      tokenizer_, runner_->vocab());
  s->order = next_order_++;
  s->arrived_step = counters_.steps;
  s->mode = s->request.attention.value_or(options_.default_mode);
  s->budget = s->request.budget.value_or(options_.default_budget);
  s->audit = s->request.audit.value_or(options_.default_audit);
  if (s->audit > 0) s->usage.missed.emplace();
  const bool dense = s->mode == AttentionMode::kDense;
  s->path.dense = dense;
  s->path.budget = dense ? 0 : s->budget;
  s->path.owner = s->order + 1;
  const std::string parts[] = {options_.kv_identity, dense ? "dense" : "lserve",
                               s->request.cache_salt};
  s->path.seed = ChainSeed(parts);
  sequences_.push_back(std::move(s));
}

int EngineCore::LongestContext(AttentionMode mode) const {
  if (mode == AttentionMode::kLserve) return options_.max_context;
  const int64_t streaming = cache_->total_pages(HeadClass::kStreaming) * kBlockTokens;
  return static_cast<int>(std::min<int64_t>(options_.max_context, streaming));
}

void EngineCore::Cancel(const std::string& id) {
  for (auto& s : sequences_)
    if (s->request.id == id) s->cancelled = true;
}

void EngineCore::FailAll(const Status& error) {
  for (auto& s : sequences_)
    if (!finished_.contains(s.get())) Finish(s.get(), FinishReason::kError, error);
  DropFinished();
}

void EngineCore::Finish(Sequence* s, FinishReason reason, const Status& error) {
  if (prefix_ && (reason == FinishReason::kStop || reason == FinishReason::kLength))
    prefix_->Checkpoint(s->path);
  if (s->slot >= 0) cache_->FreeSlot(s->slot);
  s->slot = -1;
  s->swapped = {};
  const Clock::time_point now = Clock::now();
  if (s->first_token != Clock::time_point()) s->usage.decode_seconds = Seconds(s->first_token, now);
  Event event;
  event.kind = Event::Kind::kFinish;
  event.reason = reason;
  event.error = error;
  if (reason == FinishReason::kStop || reason == FinishReason::kLength) {
    event.trailing_text = s->stop.Push(s->decoder.Finish());
    event.trailing_text += s->stop.Finish();
    event.stop_string = s->stop.stopped();
  }
  event.usage = s->usage;
  s->sink(std::move(event));
  finished_.insert(s);
}

void EngineCore::DropCancelled() {
  for (auto& s : sequences_)
    if (s->cancelled) Finish(s.get(), FinishReason::kAborted);
  DropFinished();
}

void EngineCore::DropFinished() {
  std::erase_if(sequences_, [&](const auto& s) { return finished_.contains(s.get()); });
  finished_.clear();
}

void EngineCore::Run(std::vector<Part>* parts) {
  tokens_.clear();
  seq_.clear();
  pos_.clear();
  logit_rows_.clear();
  steps_.clear();
  picks_.asks.clear();
  picks_.wanted.clear();
  const size_t most_picks = static_cast<size_t>(runner_->most_picks());
  for (Part& part : *parts) {
    Sequence& s = *part.sequence;
    const int row = static_cast<int>(tokens_.size());
    SeqStep step;
    step.id = s.order + 1;
    step.slot = s.slot;
    step.q_begin = row;
    step.q_len = part.tokens;
    step.pos = s.computed;
    step.decode = !s.prefilling();
    step.mode = s.mode;
    step.budget = s.budget;
    step.state = &s.selection;
    step.audit = s.audit;
    steps_.push_back(step);
    for (int i = 0; i < part.tokens; ++i) {
      tokens_.push_back(s.tokens[static_cast<size_t>(s.computed + i)]);
      seq_.push_back(s.slot);
      pos_.push_back(s.computed + i);
    }
    part.logits = static_cast<int>(logit_rows_.size());
    const bool all = s.prefilling() && s.wants_prompt_logprobs() && s.replay_to == 0;
    const bool last = s.computed + part.tokens == static_cast<int>(s.tokens.size());
    for (int i = all ? 0 : part.tokens - 1; i < part.tokens && (all || last); ++i)
      logit_rows_.push_back(row + i);
    part.logit_count = static_cast<int>(logit_rows_.size()) - part.logits;
    if (!last || s.sampler.plain_greedy() || picks_.asks.size() >= most_picks) continue;
    CandidateAsk ask;
    ask.row = static_cast<int32_t>(logit_rows_.size()) - 1;
    if (!s.sampler.Ask(&ask, &picks_.wanted)) continue;
    part.ask = static_cast<int>(picks_.asks.size());
    picks_.asks.push_back(ask);
  }
  const size_t vocab = static_cast<size_t>(runner_->vocab());
  // Where the runner keeps them, logits come a row at a time, as they are needed.
  const size_t rows = most_picks > 0 ? 1 : logit_rows_.size();
  if (logits_.size() < rows * vocab * sizeof(float)) logits_ = Buffer(rows * vocab * sizeof(float));
  StepInput input{tokens_, seq_, pos_, steps_, logit_rows_};
  if (most_picks > 0) input.picks = &picks_;
  runner_->Forward(
      input, planner_, cache_,
      Mat(logits_.as<float>(), static_cast<int>(logit_rows_.size()), static_cast<int>(vocab)));
}

std::span<float> EngineCore::Logits(int row) {
  const size_t vocab = static_cast<size_t>(runner_->vocab());
  if (runner_->most_picks() == 0)
    return {logits_.as<float>() + static_cast<size_t>(row) * vocab, vocab};
  runner_->ReadLogits(row, {logits_.as<float>(), vocab});
  return {logits_.as<float>(), vocab};
}

Sampled EngineCore::Choose(const Part& part) {
  Sampler& sampler = part.sequence->sampler;
  const int row = part.logits + part.logit_count - 1;
  if (runner_->most_picks() > 0) {
    if (sampler.plain_greedy()) {
      Sampled best;
      best.chosen.id = picks_.best[static_cast<size_t>(row)];
      return best;
    }
    if (part.ask >= 0) {
      const size_t i = static_cast<size_t>(part.ask);
      std::optional<Sampled> sampled =
          sampler.Sample(picks_.asks[i], picks_.answers[i], picks_.wanted, picks_.wanted_logits);
      if (sampled) return std::move(*sampled);
    }
  }
  return sampler.Sample(Logits(row));
}

void EngineCore::Step() {
  DropCancelled();
  if (sequences_.empty()) return;
  FinishReplays();
  ResumeSwapped();
  std::vector<Part> parts = Arrange();
  ++counters_.steps;
  if (parts.empty()) return;
  StepWork work;
  for (const Part& part : parts) {
    const Sequence& sequence = *part.sequence;
    work.rows += part.tokens;
    if (sequence.prefilling()) {
      work.prompt_rows += part.tokens;
      work.context += sequence.computed + part.tokens;
    }
    work.keys_read += part.tokens * KeysRead(sequence, sequence.computed + (part.tokens - 1) / 2);
  }
  const Clock::time_point before = Clock::now();
  Run(&parts);
  // A device may still be at it. Whoever drives the core asks again, and ends all requests.
  if (!runner_->Health().ok()) return;
  counters_.computed_tokens += work.rows;
  step_time_.Observe(work, Seconds(before, Clock::now()));
  for (size_t i = 0; i < parts.size(); ++i) Commit(parts[i], static_cast<int>(i));
  counters_.selector_runs = planner_->selector_runs();
  SaveSome(kSaveBytes);
  DropFinished();
}

void EngineCore::Commit(const Part& part, int index) {
  Sequence* s = part.sequence;
  const bool prefill = s->prefilling();
  const VisitCount& visits = planner_->visits(index);
  s->usage.pages_total += visits.pages_total;
  s->usage.pages_read += visits.pages_read;
  s->usage.prefill_blocks_total += visits.prefill_blocks_total;
  s->usage.prefill_blocks_read += visits.prefill_blocks_read;
  counters_.attention_pages_total += visits.pages_total + visits.prefill_blocks_total;
  counters_.attention_pages_read += visits.pages_read + visits.prefill_blocks_read;
  if (s->usage.missed) s->usage.missed->Add(planner_->missed(index));
  counters_.audits += planner_->missed(index).layer_steps;
  const bool replay = s->replay_to > 0;
  if (prefill && !replay && s->wants_prompt_logprobs()) SendPromptLogprobs(part);
  s->computed += part.tokens;
  if (prefix_) CacheBlocks(s);
  if (s->mode == AttentionMode::kLserve)
    cache_->ReleaseStreaming(s->slot, planner_->SinkBlocks(),
                             planner_->FirstWindowBlock(s->computed, s->prefilling()));
  if (replay) return;  // all this has been told before
  const int news = prefill ? std::max(0, s->computed - s->reported) : 0;
  s->reported += news;
  counters_.prompt_tokens += news;
  if (news > 0 && s->request.progress) {
    Event event;
    event.kind = Event::Kind::kProgress;
    event.prompt_done = s->computed;
    event.prompt_total = s->prompt_len;
    event.usage = s->usage;
    s->sink(std::move(event));
  }
  if (s->computed < static_cast<int>(s->tokens.size())) return;
  if (prefill) {
    if (prefix_) prefix_->Checkpoint(s->path);
    s->first_token = Clock::now();
    s->usage.prefill_seconds = Seconds(s->started, s->first_token);
  }
  TakeNext(s, Choose(part));
}

void EngineCore::SendPromptLogprobs(const Part& part) {
  Sequence* s = part.sequence;
  Event event;
  event.kind = Event::Kind::kPromptLogprobs;
  const auto output = [&](int32_t id) {
    TokenOutput out;
    out.id = id;
    out.text = s->prompt_decoder.Push(id);
    return out;
  };
  if (s->reported == 0) event.tokens.push_back(output(s->tokens[0]));
  for (int i = std::max(0, s->reported - s->computed); i < part.tokens; ++i) {
    const int next = s->computed + i + 1;  // row i predicts the token after it
    if (next >= s->prompt_len) break;
    TokenOutput out = output(s->tokens[static_cast<size_t>(next)]);
    Sampled sampled =
        Logprobs(Logits(part.logits + i), out.id, s->request.sampling.prompt_logprobs);
    out.logprob = sampled.chosen;
    out.top = std::move(sampled.top);
    event.tokens.push_back(std::move(out));
  }
  if (!event.tokens.empty()) s->sink(std::move(event));
}

void EngineCore::TakeNext(Sequence* s, Sampled sampled) {
  const SamplingParams& params = s->request.sampling;
  const int32_t id = sampled.chosen.id;
  s->sampler.Accept(id);
  s->tokens.push_back(id);
  ++s->usage.completion_tokens;
  ++counters_.generation_tokens;

  const auto among = [&](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  };
  const bool enough = s->usage.completion_tokens > params.min_tokens || params.min_tokens == 0;
  const bool ended = (enough && !params.ignore_eos && among(options_.eos)) ||
                     (enough && among(params.stop_token_ids));
  TokenOutput out;
  out.id = id;
  if (!ended) {
    std::string text = s->decoder.Push(id);
    out.text = enough ? s->stop.Push(text) : text;
  }
  if (params.logprobs >= 0) {
    out.logprob = sampled.chosen;
    out.top = std::move(sampled.top);
  }
  Event event;
  event.kind = Event::Kind::kTokens;
  event.tokens.push_back(std::move(out));
  s->sink(std::move(event));

  if (ended || s->stop.stopped()) {
    Finish(s, FinishReason::kStop);
  } else if (s->usage.completion_tokens >= params.max_tokens ||
             static_cast<int>(s->tokens.size()) >= LongestContext(s->mode)) {
    Finish(s, FinishReason::kLength);
  }
}

EngineStats EngineCore::stats() const {
  EngineStats out = counters_;
  for (const auto& s : sequences_)
    (s->state == Sequence::State::kRunning ? out.running : out.waiting)++;
  out.retrieval_pages = cache_->total_pages(HeadClass::kRetrieval);
  out.streaming_pages = cache_->total_pages(HeadClass::kStreaming);
  out.retrieval_pages_used = out.retrieval_pages - Available(HeadClass::kRetrieval);
  out.streaming_pages_used = out.streaming_pages - Available(HeadClass::kStreaming);
  if (prefix_) {
    out.prefix_cache_blocks = prefix_->blocks();
    out.prefix_host_restored = prefix_->restored().host;
    out.prefix_restored = prefix_->restored().files;
    if (const HostPages* host = prefix_->host()) {
      out.prefix_host_blocks = host->blocks();
      out.prefix_host_bytes = host->bytes();
    }
  }
  return out;
}

}  // namespace lserve
