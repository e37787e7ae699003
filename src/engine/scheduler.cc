#include "engine/scheduler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "plan/tile.h"

namespace lserve {
namespace {

// A chunk of at most `limit` tokens: whole tiles of attention, or at least whole blocks, where it
// does not end the prompt, since a part of one costs as much as a whole one.
int ChunkLength(const Candidate& c, int limit, int unit) {
  if (c.remaining_prompt <= limit) return c.remaining_prompt;
  for (int whole : {unit, kBlockTokens})
    if (limit >= whole) return limit / whole * whole;
  return limit;
}

// See StepBudget::fit_rows.
void FitRows(const std::vector<Candidate>& candidates, int unit, std::vector<int>* tokens) {
  const int excess = std::accumulate(tokens->begin(), tokens->end(), 0) % unit;
  if (excess == 0 || excess > unit / 4) return;
  for (size_t i = 0; i < candidates.size(); ++i) {
    int& chunk = (*tokens)[i];
    if (chunk < candidates[i].remaining_prompt && chunk >= unit) {
      chunk -= excess;
      return;
    }
  }
}

}  // namespace

StepDecision Schedule(const std::vector<Candidate>& candidates, const StepBudget& budget) {
  StepDecision out;
  out.tokens.assign(candidates.size(), 0);
  int left = budget.tokens, logit_rows = budget.logit_rows, slots = budget.free_slots;
  int64_t free[2] = {budget.free_pages[0], budget.free_pages[1]};
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& c = candidates[i];
    if (!c.running) continue;
    if (c.remaining_prompt == 0) {
      out.tokens[i] = 1;
      --left;
    }
    for (int k : {0, 1}) free[k] -= c.pages_needed[k];
  }

  // Prompts that may take part: running ones, and waiting ones in order of arrival while they fit.
  std::vector<size_t> by_age(candidates.size());
  std::iota(by_age.begin(), by_age.end(), size_t{0});
  std::stable_sort(by_age.begin(), by_age.end(), [&](size_t a, size_t b) {
    return std::pair(candidates[a].priority, candidates[a].order) <
           std::pair(candidates[b].priority, candidates[b].order);
  });
  std::vector<size_t> prompts;
  bool closed = false;
  for (size_t i : by_age) {
    const Candidate& c = candidates[i];
    if (c.remaining_prompt == 0) continue;
    if (!c.running) {
      if (closed || slots == 0) continue;
      if (c.pages_needed[0] > free[0] || c.pages_needed[1] > free[1]) {
        if (out.blocked < 0) {
          out.blocked = static_cast<int>(i);
          closed = c.blocked_steps >= kPatience;
        }
        continue;
      }
      --slots;
      for (int k : {0, 1}) free[k] -= c.pages_needed[k];
    }
    prompts.push_back(i);
  }
  if (prompts.empty() || left <= 0) return out;

  // Time is shared like tokens; it always suffices for kLeastChunk tokens of any prompt.
  double seconds = budget.seconds < 0 ? INFINITY : budget.seconds;
  for (size_t i : prompts) {
    const Candidate& c = candidates[i];
    seconds = std::max(seconds, c.start_seconds + kLeastChunk * c.token_seconds);
  }
  // Sets the chunk of a prompt to at most `share` of what is left; what it had goes back first.
  const auto give = [&](size_t i, double share) {
    const Candidate& c = candidates[i];
    const auto take = [&](int tokens) {
      if ((out.tokens[i] == 0) != (out.tokens[i] + tokens == 0))
        seconds -= tokens > 0 ? c.start_seconds : -c.start_seconds;
      out.tokens[i] += tokens;
      left -= tokens;
      seconds -= tokens * c.token_seconds;
      if (c.all_logits) logit_rows -= tokens;
    };
    take(-out.tokens[i]);
    double limit = left * share;
    if (c.token_seconds > 0) {
      // A share that is not worth beginning with is a few tokens nevertheless, where there is time.
      const double most = (seconds - c.start_seconds) / c.token_seconds,
                   some = (seconds * share - c.start_seconds) / c.token_seconds;
      limit = std::min({limit, most, std::max(some, kLeastChunk * share)});
    }
    if (c.all_logits) limit = std::min<double>(limit, logit_rows);
    take(ChunkLength(c, static_cast<int>(std::max(0.0, limit) + 1e-6), budget.unit));
  };
  if (prompts.size() > 1) give(prompts.front(), 0.25);
  const auto work = [&](size_t i) {
    const Candidate& c = candidates[i];
    return std::pair(c.priority, c.remaining_prompt - kAgeing * c.age);
  };
  std::stable_sort(prompts.begin(), prompts.end(),
                   [&](size_t a, size_t b) { return work(a) < work(b); });
  for (size_t i : prompts) give(i, 1);
  if (budget.fit_rows) FitRows(candidates, budget.unit, &out.tokens);
  return out;
}

int ChooseVictim(const std::vector<Candidate>& candidates) {
  int victim = -1;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& c = candidates[i];
    if (!c.running) continue;
    if (victim < 0 ||
        std::pair(c.priority, c.order) > std::pair(candidates[static_cast<size_t>(victim)].priority,
                                                   candidates[static_cast<size_t>(victim)].order))
      victim = static_cast<int>(i);
  }
  return victim;
}

}  // namespace lserve
