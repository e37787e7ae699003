#include "engine/engine_core.h"

#include <algorithm>

namespace lserve {
namespace {

constexpr int kMinStepTokens = 64;  // fewer rows would read the weights for too little work

double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

int Blocks(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

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
                       KvCache* cache, Planner* planner)
    : options_(options), runner_(runner), tokenizer_(tokenizer), cache_(cache), planner_(planner) {}

EngineCore::~EngineCore() {
  for (auto& s : sequences_) s->cancelled = true;
  DropCancelled();
}

void EngineCore::Add(Request request, EventSink sink, uint64_t seed) {
  auto s = std::make_unique<Sequence>(std::move(request), std::move(sink), seed, options_.eos,
                                      tokenizer_, runner_->vocab());
  s->order = next_order_++;
  s->mode = s->request.attention.value_or(options_.default_mode);
  s->budget = s->request.budget.value_or(options_.default_budget);
  sequences_.push_back(std::move(s));
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

int EngineCore::TokenBudget() const {
  if (row_seconds_ <= 0) return options_.step_tokens;
  int decoding = 0;
  for (const auto& s : sequences_)
    decoding += s->state == Sequence::State::kRunning && !s->prefilling();
  const double seconds =
      decoding > 0 ? options_.decode_step_seconds : options_.prefill_step_seconds;
  if (seconds <= 0) return options_.step_tokens;
  const double rows = std::min(seconds / row_seconds_, static_cast<double>(options_.step_tokens));
  return std::min(options_.step_tokens,
                  decoding + std::max(kMinStepTokens, static_cast<int>(rows)));
}

// Pages that a sequence will hold with `len` tokens stored; its streaming part is a sink and a
// window, chunk included.
int64_t EngineCore::PagesFor(const Sequence& s, int len, HeadClass cls) const {
  const int all = Blocks(len);
  if (cls == HeadClass::kRetrieval || s.mode == AttentionMode::kDense) return all;
  const int window = all - planner_->FirstWindowBlock(std::max(0, len - options_.step_tokens),
                                                      len <= s.prompt_len);
  return std::min(all, planner_->SinkBlocks() + window + 1);
}

Candidate EngineCore::Describe(const Sequence& s) const {
  Candidate c;
  c.order = s.order;
  c.priority = s.request.priority;
  c.running = s.state == Sequence::State::kRunning;
  c.remaining_prompt = s.remaining_prompt();
  c.all_logits = s.request.sampling.prompt_logprobs >= 0;
  c.blocked_steps = s.blocked_steps;
  if (s.prefilling()) {
    for (HeadClass cls : {HeadClass::kRetrieval, HeadClass::kStreaming}) {
      const int64_t held = c.running ? PagesFor(s, s.computed, cls) : 0;
      c.pages_needed[static_cast<int>(cls)] =
          std::max<int64_t>(0, PagesFor(s, s.prompt_len, cls) - held);
    }
  }
  return c;
}

// Swapped sequences come back, oldest first, before anybody new begins.
void EngineCore::ResumeSwapped() {
  bool running = std::any_of(sequences_.begin(), sequences_.end(),
                             [](const auto& s) { return s->state == Sequence::State::kRunning; });
  for (auto& s : sequences_) {
    if (s->state != Sequence::State::kSwapped) continue;
    // One page to go on with, or it would lose its pages again at once; alone it always finds one.
    for (int k : {0, 1})
      if (static_cast<int64_t>(s->swapped.blocks[k].size()) + running >
          cache_->free_pages(static_cast<HeadClass>(k)))
        return;
    const int slot = cache_->AllocateSlot();
    if (slot < 0) return;
    CHECK(cache_->SwapIn(slot, s->swapped));
    s->swapped = {};
    s->slot = slot;
    s->state = Sequence::State::kRunning;
    running = true;
  }
}

void EngineCore::Preempt(Sequence* s) {
  s->swapped = cache_->SwapOut(s->slot);
  cache_->FreeSlot(s->slot);
  s->slot = -1;
  s->state = Sequence::State::kSwapped;
  ++counters_.preemptions;
}

// Pages for `len` tokens, at the expense of younger sequences; false when the sequence is itself
// the youngest and had to go.
bool EngineCore::MakeRoom(Sequence* sequence, int len) {
  while (!cache_->Extend(sequence->slot, len)) {
    std::vector<Candidate> candidates;
    std::vector<Sequence*> who;
    for (auto& s : sequences_) {
      candidates.push_back(Describe(*s));
      who.push_back(s.get());
    }
    Sequence* victim = who[static_cast<size_t>(ChooseVictim(candidates))];
    Preempt(victim);
    if (victim == sequence) return false;
  }
  return true;
}

// Who takes part with how many tokens; slots and pages are there afterwards.
std::vector<EngineCore::Part> EngineCore::Arrange() {
  bool swapped = false;
  std::vector<Candidate> candidates;
  std::vector<Sequence*> who;
  int running = 0;
  for (auto& s : sequences_) {
    swapped |= s->state == Sequence::State::kSwapped;
    running += s->state == Sequence::State::kRunning;
  }
  for (auto& s : sequences_) {
    if (s->state == Sequence::State::kSwapped || (swapped && s->state == Sequence::State::kWaiting))
      continue;
    candidates.push_back(Describe(*s));
    who.push_back(s.get());
  }
  StepBudget budget;
  budget.tokens = TokenBudget();
  budget.free_slots = options_.max_running - running;
  for (int k : {0, 1}) budget.free_pages[k] = cache_->free_pages(static_cast<HeadClass>(k));
  const StepDecision decision = Schedule(candidates, budget);
  if (decision.blocked >= 0) ++who[static_cast<size_t>(decision.blocked)]->blocked_steps;

  std::vector<Part> parts;
  for (size_t i = 0; i < who.size();
       ++i) {  // oldest first: they may take pages from the younger ones
    Sequence* s = who[i];
    if (decision.tokens[i] == 0) continue;
    if (s->state == Sequence::State::kSwapped) continue;  // lost its pages to an older one just now
    if (s->state == Sequence::State::kWaiting) {
      s->slot = cache_->AllocateSlot();
      if (s->slot < 0) continue;
      s->state = Sequence::State::kRunning;
      s->started = Clock::now();
      s->usage.queue_seconds = Seconds(s->arrived, s->started);
    }
    if (!MakeRoom(s, s->computed + decision.tokens[i])) continue;
    parts.push_back({s, decision.tokens[i]});
  }
  std::erase_if(parts,
                [](const Part& p) { return p.sequence->state != Sequence::State::kRunning; });
  return parts;
}

void EngineCore::Run(std::vector<Part>* parts) {
  tokens_.clear();
  seq_.clear();
  pos_.clear();
  logit_rows_.clear();
  steps_.clear();
  for (Part& part : *parts) {
    Sequence& s = *part.sequence;
    const int row = static_cast<int>(tokens_.size());
    SeqStep step;
    step.slot = s.slot;
    step.q_begin = row;
    step.q_len = part.tokens;
    step.pos = s.computed;
    step.decode = !s.prefilling();
    step.mode = s.mode;
    step.budget = s.budget;
    step.state = &s.selection;
    steps_.push_back(step);
    for (int i = 0; i < part.tokens; ++i) {
      tokens_.push_back(s.tokens[static_cast<size_t>(s.computed + i)]);
      seq_.push_back(s.slot);
      pos_.push_back(s.computed + i);
    }
    part.logits = static_cast<int>(logit_rows_.size());
    const bool all = s.prefilling() && s.request.sampling.prompt_logprobs >= 0;
    const bool last = s.computed + part.tokens == static_cast<int>(s.tokens.size());
    for (int i = all ? 0 : part.tokens - 1; i < part.tokens && (all || last); ++i)
      logit_rows_.push_back(row + i);
    part.logit_count = static_cast<int>(logit_rows_.size()) - part.logits;
  }
  const size_t vocab = static_cast<size_t>(runner_->vocab());
  if (logits_.size() < logit_rows_.size() * vocab * sizeof(float))
    logits_ = Buffer(logit_rows_.size() * vocab * sizeof(float));
  runner_->Forward(
      {tokens_, seq_, pos_, steps_, logit_rows_}, planner_, cache_,
      Mat(logits_.as<float>(), static_cast<int>(logit_rows_.size()), static_cast<int>(vocab)));
}

void EngineCore::Step() {
  DropCancelled();
  if (sequences_.empty()) return;
  ResumeSwapped();
  std::vector<Part> parts = Arrange();
  ++counters_.steps;
  if (parts.empty()) return;
  const Clock::time_point before = Clock::now();
  Run(&parts);
  if (static_cast<int>(tokens_.size()) >=
      kMinStepTokens) {  // shorter steps say little about long ones
    const double seconds = Seconds(before, Clock::now()) / static_cast<double>(tokens_.size());
    row_seconds_ = row_seconds_ > 0 ? 0.5 * (row_seconds_ + seconds) : seconds;
  }
  for (size_t i = 0; i < parts.size(); ++i) Commit(parts[i], static_cast<int>(i));
  counters_.selector_runs = planner_->selector_runs();
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
  if (prefill) counters_.prompt_tokens += part.tokens;

  if (prefill && s->request.sampling.prompt_logprobs >= 0) SendPromptLogprobs(part);
  s->computed += part.tokens;
  if (s->mode == AttentionMode::kLserve)
    cache_->ReleaseStreaming(s->slot, planner_->SinkBlocks(),
                             planner_->FirstWindowBlock(s->computed, s->prefilling()));
  if (prefill && s->request.progress) {
    Event event;
    event.kind = Event::Kind::kProgress;
    event.prompt_done = s->computed;
    event.prompt_total = s->prompt_len;
    event.usage = s->usage;
    s->sink(std::move(event));
  }
  if (s->computed < static_cast<int>(s->tokens.size())) return;
  if (prefill) {
    s->first_token = Clock::now();
    s->usage.prefill_seconds = Seconds(s->started, s->first_token);
  }
  const size_t vocab = static_cast<size_t>(runner_->vocab());
  const size_t row = static_cast<size_t>(part.logits + part.logit_count - 1);
  SampleNext(s, {logits_.as<float>() + row * vocab, vocab});
}

void EngineCore::SendPromptLogprobs(const Part& part) {
  Sequence* s = part.sequence;
  const size_t vocab = static_cast<size_t>(runner_->vocab());
  Event event;
  event.kind = Event::Kind::kPromptLogprobs;
  const auto output = [&](int32_t id) {
    TokenOutput out;
    out.id = id;
    out.text = s->prompt_decoder.Push(id);
    return out;
  };
  if (s->computed == 0) event.tokens.push_back(output(s->tokens[0]));
  for (int i = 0; i < part.tokens; ++i) {
    const int next = s->computed + i + 1;  // row i predicts the token after it
    if (next >= s->prompt_len) break;
    const std::span<const float> logits(
        logits_.as<float>() + static_cast<size_t>(part.logits + i) * vocab, vocab);
    TokenOutput out = output(s->tokens[static_cast<size_t>(next)]);
    Sampled sampled = Logprobs(logits, out.id, s->request.sampling.prompt_logprobs);
    out.logprob = sampled.chosen;
    out.top = std::move(sampled.top);
    event.tokens.push_back(std::move(out));
  }
  if (!event.tokens.empty()) s->sink(std::move(event));
}

void EngineCore::SampleNext(Sequence* s, std::span<float> logits) {
  const SamplingParams& params = s->request.sampling;
  Sampled sampled = s->sampler.Sample(logits);
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
             static_cast<int>(s->tokens.size()) >= options_.max_context) {
    Finish(s, FinishReason::kLength);
  }
}

EngineStats EngineCore::stats() const {
  EngineStats out = counters_;
  for (const auto& s : sequences_)
    (s->state == Sequence::State::kRunning ? out.running : out.waiting)++;
  out.retrieval_pages = cache_->total_pages(HeadClass::kRetrieval);
  out.streaming_pages = cache_->total_pages(HeadClass::kStreaming);
  out.retrieval_pages_used = out.retrieval_pages - cache_->free_pages(HeadClass::kRetrieval);
  out.streaming_pages_used = out.streaming_pages - cache_->free_pages(HeadClass::kStreaming);
  return out;
}

}  // namespace lserve
