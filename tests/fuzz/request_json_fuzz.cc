// Fuzzes the bodies of requests: any text gives an error that says what is wrong, or a request
// within the limits. Every endpoint's reader gets every text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "server/json.h"
#include "server/openai_request.h"

namespace {

using namespace lserve;

void Require(bool holds) {
  if (!holds) std::abort();
}

// True: the request was accepted.
bool Checked(const MaybeError& error) {
  if (!error) return true;
  Require(error->status >= 400 && error->status < 500 && !error->message.empty());
  return false;
}

void CheckCompletion(const CompletionRequest& r, const RequestLimits& limits) {
  Require(r.n >= 1 && r.n <= limits.n);
  Require(r.chat ? r.input.messages.is_array() : !r.prompts.empty());
  Require(r.prompts.size() <= limits.prompts && r.input.messages.size() <= limits.messages);
  Require(r.sampling.stop.size() <= limits.stop_strings);
  for (const std::string& stop : r.sampling.stop)
    Require(!stop.empty() && stop.size() <= limits.stop_bytes);
  Require(r.sampling.logit_bias.size() <= limits.logit_bias);
  Require(r.sampling.stop_token_ids.size() <= limits.stop_token_ids);
  Require(!r.logprobs || (*r.logprobs >= 0 && *r.logprobs <= limits.top_logprobs));
  Require(!r.max_tokens || *r.max_tokens >= 0);
  Require(!r.budget || *r.budget > 0);
  const SamplingParams& s = r.sampling;
  Require(s.temperature >= 0 && s.top_p > 0 && s.top_p <= 1 && s.min_p >= 0 && s.min_p <= 1);
  for (const Prompt& prompt : r.prompts) {
    if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt))
      for (const int32_t id : *ids) Require(id >= 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  RequestLimits limits;
  limits.json.values = 100'000;
  const auto body = ParseJson(text, limits.json);
  if (!body.ok()) {
    Require(!body.status().message().empty());
    return 0;
  }
  // What is printed reads back, unless its strings were no UTF-8.
  Require(ParseJson(Dump(*body), limits.json).ok());
  CompletionRequest chat, completion;
  if (Checked(ParseChatRequest(*body, limits, &chat))) CheckCompletion(chat, limits);
  if (Checked(ParseCompletionRequest(*body, limits, &completion)))
    CheckCompletion(completion, limits);
  TokenizeRequest tokenize;
  if (Checked(ParseTokenizeRequest(*body, limits, &tokenize)))
    Require(tokenize.prompt || tokenize.input.messages.is_array());
  DetokenizeRequest detokenize;
  if (Checked(ParseDetokenizeRequest(*body, limits, &detokenize)))
    for (const int32_t id : detokenize.tokens) Require(id >= 0);
  return 0;
}
