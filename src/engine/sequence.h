// One request while the engine has it: tokens, how far they are computed, and everything that must
// survive preemption. Owned by EngineCore; one thread.
//
//   0 <= computed <= tokens.size();  tokens [0, prompt_len) came with the request, the others were
//   sampled. Prompt tokens are always run as prefill and sampled ones as decode, however they are
//   scheduled: that is what makes answers independent of chunks and preemption.
//
// Preempted while it reads its prompt, a sequence waits anew and finds its blocks in the prefix
// cache. Preempted while it answers, all but its full prompt blocks are copied out (`swapped`); the
// prompt blocks come from the prefix cache again, and those that are gone by then are run again
// (`replay_to`) before the copy comes back.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/stop.h"
#include "kv/kv_cache.h"
#include "kv/prefix_cache.h"
#include "sparse/planner.h"
#include "text/tokenizer.h"

namespace lserve {

using Clock = std::chrono::steady_clock;

struct Sequence {
  enum class State { kWaiting, kRunning, kSwapped };

  Sequence(Request r, EventSink s, uint64_t seed, const std::vector<int32_t>& eos,
           const Tokenizer* tokenizer, int vocab)
      : request(std::move(r)),
        sink(std::move(s)),
        tokens(request.prompt),
        prompt_len(static_cast<int>(request.prompt.size())),
        sampler(request.sampling, seed, eos, request.prompt, vocab),
        prompt_decoder(tokenizer, true),
        decoder(tokenizer),
        stop(request.sampling.stop) {
    // The answer continues the prompt's text: a character may begin in one and end in the other,
    // and the space that SentencePiece puts before a text is not the answer's.
    for (int i = std::max(0, prompt_len - 4); i < prompt_len; ++i)
      decoder.Push(request.prompt[static_cast<size_t>(i)]);
    selection.prompt_len = prompt_len;
    usage.prompt_tokens = prompt_len;
  }

  int prefill_end() const { return replay_to > 0 ? replay_to : prompt_len; }
  bool prefilling() const { return computed < prefill_end(); }
  bool wants_prompt_logprobs() const { return request.sampling.prompt_logprobs >= 0; }

  Request request;
  EventSink sink;
  std::vector<int32_t> tokens;
  const int prompt_len;
  int computed = 0;
  int reported = 0;  // prompt tokens whose computation the sink has heard of; preemption keeps it
  AttentionMode mode = AttentionMode::kLserve;
  int budget = 0;  // tokens
  int audit = 0;   // one layer-step in so many; 0: none

  State state = State::kWaiting;
  uint64_t order = 0;  // arrival
  int64_t arrived_step = 0;
  int blocked_steps = 0;    // steps it waited for pages at the head of the queue
  int slot = -1;            // while running
  PrefixPath path;          // its full blocks in the prefix cache
  int restores = 0;         // steps in which the prefix cache's tiers were asked
  PrefixRestored restored;  // what came of it
  PrefixHit hit;            // while without slot: what the prefix cache had when last asked
  SwappedPages swapped;     // while swapped out, and while its prompt runs again
  int swapped_from = 0;     // retrieval blocks before this one were not copied
  int swapped_len = 0;      // `computed` when it was swapped out
  int replay_to = 0;        // tokens; while its prompt runs again
  SelectionState selection;
  bool cancelled = false;

  Sampler sampler;
  StreamDecoder prompt_decoder;  // for prompt logprobs
  StreamDecoder decoder;
  StopMatcher stop;
  Usage usage;
  Clock::time_point arrived = Clock::now(), started, first_token;
};

}  // namespace lserve
