// Who has slots and pages: beginning, preemption and return of sequences. Which of them, and with
// how many tokens, is the scheduler's to say.
#include <algorithm>

#include "engine/engine_core.h"

namespace lserve {
namespace {

constexpr HeadClass kClasses[] = {HeadClass::kRetrieval, HeadClass::kStreaming};
// The step target that is chosen beside decoding sequences: slower than without prompts by this
// factor, but not below what leaves a GPU room for useful chunks, nor above what readers notice.
constexpr double kAutoSlowdown = 2.5, kAutoLeast = 0.045, kAutoMost = 0.25;  // seconds
// Waiting sequences that are looked up in the prefix cache in a step: a look-up walks a prompt.
constexpr int kLookups = 8;
constexpr int64_t kStoreBytes = int64_t{64} << 20;  // read from the prefix cache's files in a step

int Blocks(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }
double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

// Tokens that a retrieval head reads for the token at `position`.
double EngineCore::KeysRead(const Sequence& s, int position) const {
  const bool selects = s.mode == AttentionMode::kLserve && position >= s.prompt_len;
  return selects ? std::min(position, std::max(s.budget, options_.dense_below)) : position;
}

// What a step computes without any prompt.
StepWork EngineCore::DecodeWork() const {
  StepWork work;
  for (const auto& s : sequences_) {
    if (s->state != Sequence::State::kRunning || s->prefilling()) continue;
    ++work.rows;
    work.keys_read += KeysRead(*s, s->computed);
  }
  return work;
}

StepBudget EngineCore::Budget(int running) const {
  StepBudget budget;
  budget.tokens = options_.step_tokens;
  budget.unit = options_.chunk_unit;
  budget.fit_rows = options_.fit_rows;
  budget.free_slots = options_.max_running - running;
  for (HeadClass cls : kClasses) budget.free_pages[static_cast<int>(cls)] = Available(cls);
  const StepWork decode = DecodeWork();
  double target = decode.rows > 0 ? options_.step_target_seconds : options_.prompt_step_seconds;
  if (target < 0) return budget;
  const double without = step_time_.Seconds(decode);
  if (target == 0) target = std::clamp(kAutoSlowdown * without, kAutoLeast, kAutoMost);
  budget.seconds = std::max(0.0, target - without);
  if (!step_time_.knows_prompts() && decode.rows > 0)
    budget.tokens = std::min(budget.tokens, decode.rows + kLeastChunk);
  return budget;
}

// Pages that can be had: idle ones of the prefix cache are given back on demand.
int64_t EngineCore::Available(HeadClass cls) const {
  return cache_->free_pages(cls) + cache_->idle_pages(cls);
}

// Pages that a sequence will hold with `len` tokens stored; its streaming part is a sink and a
// window, chunk included.
int64_t EngineCore::PagesFor(const Sequence& s, int len, HeadClass cls) const {
  const int all = Blocks(len);
  if (cls == HeadClass::kRetrieval || s.mode == AttentionMode::kDense) return all;
  return StreamingPagesFor(len, len <= s.prompt_len);
}

int64_t EngineCore::StreamingPagesFor(int len, bool prefill) const {
  const int all = Blocks(len);
  const int window =
      all - planner_->FirstWindowBlock(std::max(0, len - options_.step_tokens), prefill);
  return std::min(all, planner_->SinkBlocks() + window + 1);
}

Candidate EngineCore::Describe(const Sequence& s) const {
  Candidate c;
  c.order = s.order;
  c.priority = s.request.priority;
  c.running = s.state == Sequence::State::kRunning;
  c.blocked_steps = s.blocked_steps;
  c.all_logits = s.wants_prompt_logprobs() && s.replay_to == 0;
  const bool swapped = s.state == Sequence::State::kSwapped;
  const int end = swapped ? s.swapped_from * kBlockTokens : s.prefill_end();
  const int done = c.running ? s.computed : s.hit.blocks * kBlockTokens;
  c.remaining_prompt = std::max(0, end - done);
  if (c.remaining_prompt == 0) return c;
  c.age = counters_.steps - s.arrived_step;
  c.token_seconds = step_time_.RowSeconds(KeysRead(s, done + kBlockTokens));
  c.start_seconds = step_time_.PromptSeconds(done);
  for (HeadClass cls : kClasses) {
    const int k = static_cast<int>(cls);
    int64_t pages = PagesFor(s, end, cls);
    if (cls == HeadClass::kRetrieval) {
      pages += static_cast<int64_t>(s.swapped.blocks[k].size());
    } else {  // those of its prompt go when the others come back
      pages = std::max(pages, static_cast<int64_t>(s.swapped.blocks[k].size()));
    }
    const int64_t held = c.running ? PagesFor(s, s.computed, cls) : s.hit.pages[k] - s.hit.idle[k];
    c.pages_needed[k] = std::max<int64_t>(0, pages - held);
  }
  return c;
}

// Blocks of a sequence without slot that the prefix cache may help with.
int EngineCore::MostBlocks(const Sequence& s) const {
  if (s.state == Sequence::State::kSwapped) return s.swapped_from;
  const int most = (s.prompt_len - 1) / kBlockTokens;  // the last token gives the logits
  return s.wants_prompt_logprobs() ? std::min(most, s.reported / kBlockTokens) : most;
}

// The longest prefix of a sequence without slot that need not be computed.
PrefixHit EngineCore::FindHit(Sequence* s) {
  return prefix_ ? prefix_->Find(&s->path, s->tokens, MostBlocks(*s)) : PrefixHit();
}

// Brings a part of what the prefix cache's tiers have of the prompt in; a step's worth, so that
// others go on meanwhile. False when there is no more, or no room.
bool EngineCore::Restore(Sequence* s) {
  // Others may take pages of what was brought in, but they cannot keep it from ever beginning.
  if (!prefix_ || s->restores >= MostBlocks(*s)) return false;
  for (HeadClass cls : kClasses)
    if (PagesFor(*s, s->prompt_len, cls) > Available(cls)) return false;
  ++s->restores;
  const PrefixRestored restored = prefix_->Restore(&s->path, s->tokens, MostBlocks(*s), kStoreBytes,
                                                   s->state == Sequence::State::kSwapped);
  s->restored.host += restored.host;
  s->restored.files += restored.files;
  return restored.host + restored.files > 0;
}

// Whether a running sequence is about to compute the very block that this one lacks: then it is
// cheaper to wait for it.
bool EngineCore::OthersCompute(const Sequence& s) const {
  const auto next_is_full = [](const Sequence& q) {
    return (static_cast<int>(q.path.blocks.size()) + 1) * kBlockTokens <= q.prompt_len;
  };
  if (!prefix_ || s.wants_prompt_logprobs() || !next_is_full(s)) return false;
  const BlockHash name = prefix_->NextName(s.path, s.tokens);
  return std::any_of(sequences_.begin(), sequences_.end(), [&](const auto& other) {
    return other->state == Sequence::State::kRunning && other->prefilling() &&
           other->request.priority <= s.request.priority && next_is_full(*other) &&
           prefix_->NextName(other->path, other->tokens) == name;
  });
}

// Blocks that became full are the prefix cache's from now on, too.
void EngineCore::CacheBlocks(Sequence* s) {
  while (true) {
    const int begin = static_cast<int>(s->path.blocks.size()) * kBlockTokens;
    const bool decoded = begin + kBlockTokens > s->prompt_len;
    if (begin + kBlockTokens > s->computed || (decoded && options_.deterministic)) return;
    const std::span<const int32_t> tokens(s->tokens);
    if (!prefix_->Insert(&s->path, s->slot,
                         tokens.subspan(static_cast<size_t>(begin), kBlockTokens), decoded))
      return;
  }
}

// Makes the given numbers of pages free, at the expense of the prefix cache, then of younger
// sequences; false when the sequence is itself the youngest and had to go.
bool EngineCore::MakeRoom(Sequence* sequence, const int64_t (&pages)[2]) {
  while (std::any_of(std::begin(kClasses), std::end(kClasses), [&](HeadClass cls) {
    return pages[static_cast<int>(cls)] > Available(cls);
  })) {
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
  for (HeadClass cls : kClasses) {
    const int64_t missing = pages[static_cast<int>(cls)] - cache_->free_pages(cls);
    if (missing > 0) CHECK(prefix_ && prefix_->Evict(cls, missing) >= missing);
  }
  return true;
}

void EngineCore::Preempt(Sequence* s) {
  ++counters_.preemptions;
  if (s->replay_to > 0) {  // the copy is still there
    s->state = Sequence::State::kSwapped;
  } else if (prefix_ && s->prefilling()) {
    s->state = Sequence::State::kWaiting;
  } else {
    s->swapped_from =
        prefix_ ? std::min(s->prompt_len / kBlockTokens, static_cast<int>(s->path.blocks.size()))
                : 0;
    s->swapped_len = s->computed;
    runner_->SaveSelection(s->slot, &s->selection);
    s->swapped = cache_->SwapOut(s->slot, s->swapped_from);
    s->state = Sequence::State::kSwapped;
  }
  s->computed = 0;
  s->replay_to = 0;
  cache_->FreeSlot(s->slot);
  s->slot = -1;
}

// The copy comes back. REQUIRES: a slot with the blocks that were not copied, enough free pages.
void EngineCore::SwapIn(Sequence* s) {
  CHECK(cache_->SwapIn(s->slot, s->swapped));
  s->swapped = {};
  runner_->LoadSelection(s->slot, s->selection);
  s->computed = s->swapped_len;
  s->replay_to = 0;
  s->state = Sequence::State::kRunning;
  if (prefix_) CacheBlocks(s);
}

// Swapped sequences come back, oldest first, before anybody new begins.
void EngineCore::ResumeSwapped() {
  bool running = std::any_of(sequences_.begin(), sequences_.end(),
                             [](const auto& s) { return s->state == Sequence::State::kRunning; });
  for (auto& s : sequences_) {
    if (s->state != Sequence::State::kSwapped) continue;
    PrefixHit hit;
    if (prefix_) hit = prefix_->FindRetrieval(s->path, s->swapped_from);
    if (hit.blocks < s->swapped_from) return;  // its prompt has to run again
    int64_t pages[2];
    for (HeadClass cls : kClasses) {
      const int k = static_cast<int>(cls);
      pages[k] = static_cast<int64_t>(s->swapped.blocks[k].size());
      // One page to go on with, or it would lose its pages again at once; alone it always finds
      // one.
      if (pages[k] + hit.idle[k] + running > Available(cls)) return;
    }
    s->slot = cache_->AllocateSlot();
    if (s->slot < 0) return;
    if (prefix_) prefix_->Attach(&s->path, hit, s->slot, false);
    CHECK(MakeRoom(s.get(), pages));
    SwapIn(s.get());
    running = true;
  }
}

// Sequences whose prompt has run again get their copy back.
void EngineCore::FinishReplays() {
  for (auto& s : sequences_) {
    if (s->state != Sequence::State::kRunning || s->replay_to == 0 || s->prefilling()) continue;
    cache_->ClearStreaming(s->slot);
    const int64_t pages[2] = {static_cast<int64_t>(s->swapped.blocks[0].size()),
                              static_cast<int64_t>(s->swapped.blocks[1].size())};
    if (MakeRoom(s.get(), pages)) SwapIn(s.get());
  }
}

// Who may take part in the step. While a sequence is swapped out, nobody new begins.
std::vector<Sequence*> EngineCore::Contenders(int running) {
  std::vector<Sequence*> who;
  const auto swapped = std::find_if(sequences_.begin(), sequences_.end(), [](const auto& s) {
    return s->state == Sequence::State::kSwapped;
  });
  int lookups = running < options_.max_running ? kLookups : 0;
  for (auto& s : sequences_) {
    if (s->state != Sequence::State::kRunning) {
      const bool replays =
          swapped != sequences_.end() && *swapped == s && prefix_ &&
          prefix_->FindRetrieval(s->path, s->swapped_from).blocks < s->swapped_from;
      if (swapped != sequences_.end() && !replays) continue;
      if (lookups-- > 0) {
        s->hit = FindHit(s.get());
        if (OthersCompute(*s) || Restore(s.get())) continue;
      }
    }
    who.push_back(s.get());
  }
  return who;
}

// Gives a slot and what the prefix cache has; false when it has to wait.
bool EngineCore::Start(Sequence* s) {
  s->hit = FindHit(s);  // others may have begun, and evicted something, in this very step
  if (OthersCompute(*s)) return false;
  s->slot = cache_->AllocateSlot();
  if (s->slot < 0) return false;
  if (s->state == Sequence::State::kSwapped) {
    s->replay_to = s->swapped_from * kBlockTokens;
    ++counters_.replays;
  }
  s->state = Sequence::State::kRunning;
  s->computed = s->hit.blocks * kBlockTokens;
  if (prefix_) prefix_->Attach(&s->path, s->hit, s->slot);
  if (s->started != Clock::time_point()) return true;  // it was preempted
  s->started = Clock::now();
  s->usage.queue_seconds = Seconds(s->arrived, s->started);
  if (prefix_ && !s->wants_prompt_logprobs()) {
    s->usage.cached_tokens = s->computed;
    const auto tokens = [&](int64_t blocks) {
      return static_cast<int>(std::min<int64_t>(blocks * kBlockTokens, s->computed));
    };
    s->usage.cached_from_host = tokens(s->restored.host);
    s->usage.cached_from_files = tokens(s->restored.files);
    counters_.prefix_queries += s->prompt_len;
    counters_.prefix_hits += s->computed;
  }
  return true;
}

// Who takes part with how many tokens; slots and pages are there afterwards.
std::vector<EngineCore::Part> EngineCore::Arrange() {
  const int running =
      static_cast<int>(std::count_if(sequences_.begin(), sequences_.end(), [](const auto& s) {
        return s->state == Sequence::State::kRunning;
      }));
  const std::vector<Sequence*> who = Contenders(running);
  std::vector<Candidate> candidates;
  for (Sequence* s : who) candidates.push_back(Describe(*s));
  const StepDecision decision = Schedule(candidates, Budget(running));
  if (decision.blocked >= 0) ++who[static_cast<size_t>(decision.blocked)]->blocked_steps;

  std::vector<Part> parts;
  for (size_t i = 0; i < who.size(); ++i) {
    // Oldest first: they may take pages from the younger ones.
    Sequence* s = who[i];
    if (decision.tokens[i] == 0) continue;
    if (candidates[i].running) {
      if (s->state != Sequence::State::kRunning) continue;  // lost its pages just now
    } else if (!Start(s)) {
      continue;
    }
    // Its prompt may have become shorter since the decision.
    const int tokens =
        s->prefilling() ? std::min(decision.tokens[i], s->prefill_end() - s->computed) : 1;
    int64_t pages[2];
    for (HeadClass cls : kClasses)
      pages[static_cast<int>(cls)] = cache_->PagesNeeded(s->slot, s->computed + tokens, cls);
    if (!MakeRoom(s, pages)) continue;
    CHECK(cache_->Extend(s->slot, s->computed + tokens));
    parts.push_back({s, tokens});
  }
  std::erase_if(parts,
                [](const Part& p) { return p.sequence->state != Sequence::State::kRunning; });
  return parts;
}

}  // namespace lserve
