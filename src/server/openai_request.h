// Where OpenAI's JSON becomes lserve's own types: every field is checked here, by type and range,
// and the error names it. Fields that are not known are ignored; fields that are known, would
// change the answer and are not supported are errors. No tokenizer and no model is needed: prompt.h
// does the rest. Pure functions, any thread.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/request.h"
#include "server/api_error.h"
#include "server/json.h"
#include "server/options.h"

namespace lserve {

using Prompt = std::variant<std::string, std::vector<int32_t>>;

// What a chat template is given.
struct ChatInput {
  Json messages = Json::array();  // role, content as one string, name
  Json kwargs = Json::object();   // chat_template_kwargs
  bool add_generation_prompt = true;
};

struct CompletionRequest {
  bool chat = false;
  std::string model;            // empty: not named
  ChatInput input;              // chat
  std::vector<Prompt> prompts;  // completions
  bool add_special_tokens = true;
  SamplingParams sampling;        // max_tokens is not set
  std::optional<int> max_tokens;  // 0 (completions): only the prompt is looked at
  int n = 1;
  bool echo = false;
  std::optional<int> logprobs;         // alternatives a token
  std::optional<int> prompt_logprobs;  // likewise
  bool stream = false, include_usage = false;
  std::optional<AttentionMode> attention;
  std::optional<int> budget, audit;
  bool progress = false;
  int priority = 0;
  std::string cache_salt;
};

MaybeError ParseChatRequest(const Json& body, const RequestLimits& limits, CompletionRequest* out);
MaybeError ParseCompletionRequest(const Json& body, const RequestLimits& limits,
                                  CompletionRequest* out);

// POST /tokenize: a text or a chat.
struct TokenizeRequest {
  std::string model;
  std::optional<std::string> prompt;
  ChatInput input;  // without prompt
  bool add_special_tokens = true;
  bool return_token_strs = false;
};
MaybeError ParseTokenizeRequest(const Json& body, const RequestLimits& limits,
                                TokenizeRequest* out);

struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
};
MaybeError ParseDetokenizeRequest(const Json& body, const RequestLimits& limits,
                                  DetokenizeRequest* out);

}  // namespace lserve
