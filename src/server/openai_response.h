// Answers in OpenAI's shapes: whole ones and the chunks of streams. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "server/json.h"
#include "text/tokenizer.h"

namespace lserve {

// What every answer and every chunk of one request has in common.
struct ResponseHeader {
  bool chat = false;
  std::string id, model;
  int64_t created = 0;  // seconds since 1970
};

// {"id", "object", "created", "model", "choices": []}
Json AnswerFrame(const ResponseHeader& header);
Json ChunkFrame(const ResponseHeader& header);

// A choice of a whole answer; logprobs and prompt_logprobs are null where not asked for.
Json WholeChoice(bool chat, int index, std::string text, Json logprobs, const char* finish_reason,
                 const std::optional<std::string>& stop_string);
// A choice of a chunk: `text`, and at the end of the choice its reason. `first`: carries the role.
Json ChunkChoice(bool chat, int index, std::string text, Json logprobs, bool first);
Json LastChunkChoice(bool chat, int index, const char* finish_reason,
                     const std::optional<std::string>& stop_string);

Json UsageJson(const Usage& usage);

// {"content": [...]} of chats.
Json ChatLogprobs(const std::vector<TokenOutput>& tokens, int top, const Tokenizer& tokenizer);

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"} of completions. One object follows
// one choice through its stream, because offsets (in characters, from the start of the text) go on
// from chunk to chunk.
class CompletionLogprobs {
 public:
  explicit CompletionLogprobs(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}
  Json Next(const std::vector<TokenOutput>& tokens, int top);

 private:
  const Tokenizer* tokenizer_;
  int64_t offset_ = 0;
  std::string pending_;  // bytes of a character that is not complete
};

// vLLM's prompt_logprobs: for each prompt token null or {ID: {"logprob", "rank", "decoded_token"}}.
Json PromptLogprobs(const std::vector<TokenOutput>& tokens, int top, const Tokenizer& tokenizer);

}  // namespace lserve
