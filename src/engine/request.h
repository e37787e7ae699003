// What the world outside the engine says to it and hears from it. Plain data; JSON stops at
// server/openai and never gets here.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/status.h"
#include "sparse/audit.h"
#include "sparse/config.h"

namespace lserve {

// Ranges are checked by CheckSampling; fields are OpenAI's and vLLM's.
struct SamplingParams {
  int max_tokens = 16;
  int min_tokens = 0;      // eos and stops are not taken before this many
  double temperature = 1;  // 0: greedy
  double top_p = 1;
  int top_k = 0;  // 0: all
  double min_p = 0;
  double presence_penalty = 0, frequency_penalty = 0;  // over generated tokens
  double repetition_penalty = 1;                       // over prompt and generated tokens
  std::optional<uint64_t> seed;                        // without: the engine draws one
  std::vector<std::string> stop;                       // not part of the answer
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  std::vector<std::pair<int32_t, float>> logit_bias;
  int logprobs = -1;         // -1: none; k: the chosen token's and the k best alternatives'
  int prompt_logprobs = -1;  // likewise for prompt tokens
};
Status CheckSampling(const SamplingParams& params, int vocab);

struct Request {
  std::string id;               // for logs and Cancel; unique among running requests
  std::vector<int32_t> prompt;  // at least one token
  SamplingParams sampling;
  std::optional<AttentionMode> attention;  // without: the server's default
  std::optional<int> budget;               // tokens
  std::optional<int> audit;  // audit one layer-step in so many (sparse/audit.h); 0: none
  bool progress = false;     // report prompt progress
  int priority = 0;          // smaller is served first
  std::string cache_salt;    // cached prefixes are shared among requests with equal salts only
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
  int rank = 0;  // 1 is the most probable token
};

struct TokenOutput {
  int32_t id = 0;
  std::string text;  // text that became complete with this token, stop strings held back
  std::optional<TokenLogprob> logprob;
  std::vector<TokenLogprob> top;  // the most probable tokens, best first
};

enum class FinishReason { kNone, kStop, kLength, kAborted, kError };
const char* FinishReasonName(FinishReason reason);  // "stop", "length", "abort", "error"

struct Usage {
  int prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
  int cached_from_host = 0,
      cached_from_files = 0;  // those that came from the tiers behind the pools
  // Pages are (layer, KV head, 64 tokens) at decode steps; blocks are (query tile, KV head, 64
  // tokens) in prefill. `total` is what dense attention would read.
  int64_t pages_total = 0, pages_read = 0, prefill_blocks_total = 0, prefill_blocks_read = 0;
  std::optional<MissedMass> missed;  // where selections are audited
  double queue_seconds = 0, prefill_seconds = 0, decode_seconds = 0;
};

// One of the things that happen to a request, in order: progress and prompt_logprobs (one a chunk
// of the prompt), tokens*, one finish. A token that ends the answer (eos, stop_token_ids) comes as
// a token without text.
struct Event {
  enum class Kind { kProgress, kPromptLogprobs, kTokens, kFinish } kind = Kind::kTokens;
  int prompt_done = 0, prompt_total = 0;  // kProgress
  std::vector<TokenOutput> tokens;  // kTokens, kPromptLogprobs (first prompt token has no logprob)
  std::string trailing_text;  // kFinish: text that was held back and is not part of a stop string
  FinishReason reason = FinishReason::kNone;  // kFinish
  std::optional<std::string> stop_string;     // kFinish: which stop string or none
  Status error;                               // kFinish with kError
  Usage usage;                                // kFinish (and current values in kProgress)
};

// Called on the engine's thread; must not block and must not call the engine back except Cancel.
using EventSink = std::function<void(Event event)>;

}  // namespace lserve
