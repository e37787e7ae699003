#include "server/openai_request.h"

#include <charconv>

#include "server/chat_input.h"
#include "server/field_reader.h"

namespace lserve {
namespace {

constexpr int64_t kMaxInt = INT32_MAX;

bool IsEmpty(const Json& value) { return (value.is_array() || value.is_object()) && value.empty(); }
bool IsFalse(const Json& value) { return value.is_boolean() && !value.get<bool>(); }
bool IsTrue(const Json& value) { return value.is_boolean() && value.get<bool>(); }
auto Equals(Json wanted) {
  return [wanted = std::move(wanted)](const Json& value) { return value == wanted; };
}

// What both APIs have, would change the answer, and is not built.
void RejectUnsupported(FieldReader* r, int n) {
  r->Unsupported("tools", IsEmpty);
  r->Unsupported("tool_choice", [](const Json& v) { return v == "none" || v == "auto"; });
  r->Unsupported("functions", IsEmpty);
  r->Unsupported("function_call", [](const Json& v) { return v == "none" || v == "auto"; });
  r->Unsupported("response_format", Equals({{"type", "text"}}));
  r->Unsupported("modalities", Equals(Json::array({"text"})));
  for (const char* name : {"audio", "prediction", "web_search_options", "reasoning_effort",
                           "verbosity", "moderation"}) {
    r->Unsupported(name);
  }
  r->Unsupported("suffix", Equals(""));
  r->Unsupported("best_of", Equals(n));
  // Of vLLM's.
  r->Unsupported("use_beam_search", IsFalse);
  r->Unsupported("skip_special_tokens", IsTrue);
  r->Unsupported("spaces_between_special_tokens", [](const Json& v) { return v.is_boolean(); });
  r->Unsupported("include_stop_str_in_output", IsFalse);
  r->Unsupported("continue_final_message", IsFalse);
  r->Unsupported("return_tokens_as_token_ids", IsFalse);
  r->Unsupported("length_penalty", Equals(1.0));
  for (const char* name : {"bad_words", "allowed_token_ids", "documents", "logits_processors"}) {
    r->Unsupported(name, IsEmpty);
  }
  for (const char* name :
       {"chat_template", "truncate_prompt_tokens", "guided_json", "guided_regex", "guided_choice",
        "guided_grammar", "structured_outputs", "prompt_embeds", "kv_transfer_params"}) {
    r->Unsupported(name);
  }
}

void ReadStop(FieldReader* r, const RequestLimits& limits, std::vector<std::string>* out) {
  const Json* stop = r->Find("stop");
  if (!stop) return;
  const Json list = stop->is_string() ? Json::array({*stop}) : *stop;
  if (!list.is_array())
    return r->Bad("stop", "must be a string or a list of strings, not {}", KindName(list));
  if (list.size() > limits.stop_strings) {
    return r->Bad("stop", "{} strings, the limit is {}", list.size(), limits.stop_strings);
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string name = stop->is_string() ? "stop" : fmt::format("stop[{}]", i);
    if (!list[i].is_string()) return r->Bad(name, "must be a string, not {}", KindName(list[i]));
    std::string text = list[i].get<std::string>();
    if (text.empty()) return r->Bad(name, "is empty");
    if (text.size() > limits.stop_bytes) {
      return r->Bad(name, "{} bytes, the limit is {}", text.size(), limits.stop_bytes);
    }
    out->push_back(std::move(text));
  }
}

void ReadLogitBias(FieldReader* r, const RequestLimits& limits,
                   std::vector<std::pair<int32_t, float>>* out) {
  const Json* bias = r->Object("logit_bias");
  if (!bias) return;
  if (bias->size() > limits.logit_bias) {
    return r->Bad("logit_bias", "{} entries, the limit is {}", bias->size(), limits.logit_bias);
  }
  for (const auto& [key, value] : bias->items()) {
    int32_t id = -1;
    const auto [end, ec] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (ec != std::errc() || end != key.data() + key.size() || id < 0) {
      return r->Bad("logit_bias", "key \"{}\" is not a token id", key.substr(0, 40));
    }
    if (!value.is_number()) {
      return r->Bad("logit_bias", "the bias of {} must be a number, not {}", id, KindName(value));
    }
    const double number = value.get<double>();
    if (!(number >= -100 && number <= 100)) {
      return r->Bad("logit_bias", "the bias of {} is {}, it must be between -100 and 100", id,
                    number);
    }
    out->emplace_back(id, static_cast<float>(number));
  }
}

void ReadSampling(FieldReader* r, const RequestLimits& limits, SamplingParams* out) {
  r->Number("temperature", 0, 100, &out->temperature);
  r->Number("top_p", 0, 1, &out->top_p);
  if (out->top_p == 0) r->Bad("top_p", "must be above 0");
  r->Int("top_k", -1, kMaxInt, &out->top_k);
  if (out->top_k == -1) out->top_k = 0;  // vLLM's way to say "all"
  r->Number("min_p", 0, 1, &out->min_p);
  r->Number("presence_penalty", -2, 2, &out->presence_penalty);
  r->Number("frequency_penalty", -2, 2, &out->frequency_penalty);
  r->Number("repetition_penalty", 0, 100, &out->repetition_penalty);
  if (out->repetition_penalty == 0) r->Bad("repetition_penalty", "must be above 0");
  if (r->Find("seed")) {
    int64_t seed = 0;
    r->Int64("seed", INT64_MIN, INT64_MAX, &seed);
    out->seed = static_cast<uint64_t>(seed);
  }
  r->Int("min_tokens", 0, kMaxInt, &out->min_tokens);
  ReadStop(r, limits, &out->stop);
  r->TokenIds("stop_token_ids", limits.stop_token_ids, &out->stop_token_ids);
  r->Bool("ignore_eos", &out->ignore_eos);
  ReadLogitBias(r, limits, &out->logit_bias);
}

void ReadExtension(FieldReader* r, CompletionRequest* out) {
  const Json* extension = r->Object("lserve");
  if (!extension) return;
  FieldReader e(*extension, "lserve.");
  std::string attention;
  e.String("attention", &attention);
  if (attention == "dense") {
    out->attention = AttentionMode::kDense;
  } else if (attention == "lserve") {
    out->attention = AttentionMode::kLserve;
  } else if (e.Find("attention")) {
    e.Bad("attention", "\"{}\" is neither \"lserve\" nor \"dense\"", attention.substr(0, 40));
  }
  e.Int("budget", 1, kMaxInt, &out->budget);
  e.Int("audit", 0, kMaxInt, &out->audit);
  e.Bool("progress", &out->progress);
  if (e.failed()) r->Fail(*e.error());
}

// Fields that both kinds of request have.
void ReadCommon(FieldReader* r, const RequestLimits& limits, CompletionRequest* out) {
  r->String("model", &out->model);
  r->Int("n", 1, limits.n, &out->n);
  RejectUnsupported(r, out->n);
  ReadSampling(r, limits, &out->sampling);
  r->Bool("echo", &out->echo);
  r->Bool("stream", &out->stream);
  if (const Json* options = r->Object("stream_options")) {
    if (!out->stream) r->Bad("stream_options", "is only allowed when stream is true");
    FieldReader s(*options, "stream_options.");
    s.Bool("include_usage", &out->include_usage);
    bool ignored = false;
    s.Bool("include_obfuscation", &ignored);
    s.Unsupported("continuous_usage_stats", IsFalse);
    if (s.failed()) r->Fail(*s.error());
  }
  r->Int("prompt_logprobs", 0, limits.top_logprobs, &out->prompt_logprobs);
  if (out->prompt_logprobs && out->stream) {
    r->Bad("prompt_logprobs", "is not available when stream is true");
  }
  r->Bool("add_special_tokens", &out->add_special_tokens);
  r->Int("priority", -kMaxInt, kMaxInt, &out->priority);
  std::string ignored;
  r->String("user", &ignored);
  r->String("cache_salt", &out->cache_salt);
  if (out->cache_salt.size() > limits.cache_salt_bytes) {
    r->Bad("cache_salt", "{} bytes, the limit is {}", out->cache_salt.size(),
           limits.cache_salt_bytes);
  }
  ReadExtension(r, out);
}

MaybeError CheckTogether(const FieldReader& r, const CompletionRequest& request) {
  if (r.failed()) return r.error();
  if (request.max_tokens && request.sampling.min_tokens > *request.max_tokens) {
    return BadField("min_tokens", "{} is more than max_tokens, {}", request.sampling.min_tokens,
                    *request.max_tokens);
  }
  return {};
}

void ReadPrompts(FieldReader* r, const RequestLimits& limits, CompletionRequest* out) {
  const Json* prompt = r->Find("prompt");
  if (!prompt) return r->Bad("prompt", "is missing");
  if (prompt->is_string()) {
    out->prompts.emplace_back(prompt->get<std::string>());
    return;
  }
  if (!prompt->is_array()) {
    return r->Bad("prompt",
                  "must be a string, a list of strings, token ids or lists of token ids, not {}",
                  KindName(*prompt));
  }
  if (prompt->empty()) return r->Bad("prompt", "is empty");
  const size_t any = SIZE_MAX;
  if ((*prompt)[0].is_number()) {
    std::vector<int32_t> ids;
    r->TokenIds("prompt", any, &ids);
    out->prompts.emplace_back(std::move(ids));
    return;
  }
  if (prompt->size() > limits.prompts) {
    return r->Bad("prompt", "{} prompts, the limit is {}", prompt->size(), limits.prompts);
  }
  for (size_t i = 0; i < prompt->size(); ++i) {
    const Json& one = (*prompt)[i];
    const std::string name = fmt::format("prompt[{}]", i);
    if (one.is_string()) {
      out->prompts.emplace_back(one.get<std::string>());
    } else if (one.is_array()) {
      const Json wrapped = {{name, one}};
      FieldReader ids_reader(wrapped);
      std::vector<int32_t> ids;
      ids_reader.TokenIds(name.c_str(), any, &ids);
      if (ids_reader.failed()) return r->Fail(*ids_reader.error());
      if (ids.empty()) return r->Bad(name, "is empty");
      out->prompts.emplace_back(std::move(ids));
    } else {
      return r->Bad(name, "must be a string or a list of token ids, not {}", KindName(one));
    }
  }
}

MaybeError RequireObject(const Json& body) {
  if (body.is_object()) return {};
  return ApiError{400, fmt::format("the body must be a JSON object, not {}", KindName(body)), "",
                  "invalid_json"};
}

}  // namespace

MaybeError ParseChatRequest(const Json& body, const RequestLimits& limits, CompletionRequest* out) {
  if (MaybeError error = RequireObject(body)) return error;
  FieldReader r(body);
  out->chat = true;
  out->add_special_tokens = false;  // the template writes them
  ReadChatInput(&r, limits, &out->input);
  ReadCommon(&r, limits, out);
  if (out->echo) r.Bad("echo", "is not supported in chats");
  r.Int("max_tokens", 1, kMaxInt, &out->max_tokens);
  r.Int("max_completion_tokens", 1, kMaxInt, &out->max_tokens);
  bool logprobs = false;
  std::optional<int> top;
  r.Bool("logprobs", &logprobs);
  r.Int("top_logprobs", 0, limits.top_logprobs, &top);
  if (top && !logprobs) r.Bad("top_logprobs", "is only allowed when logprobs is true");
  if (logprobs) out->logprobs = top.value_or(0);
  return CheckTogether(r, *out);
}

MaybeError ParseCompletionRequest(const Json& body, const RequestLimits& limits,
                                  CompletionRequest* out) {
  if (MaybeError error = RequireObject(body)) return error;
  FieldReader r(body);
  ReadPrompts(&r, limits, out);
  ReadCommon(&r, limits, out);
  out->max_tokens = 16;
  r.Int("max_tokens", 0, kMaxInt, &out->max_tokens);
  r.Int("logprobs", 0, limits.top_logprobs, &out->logprobs);
  return CheckTogether(r, *out);
}

MaybeError ParseTokenizeRequest(const Json& body, const RequestLimits& limits,
                                TokenizeRequest* out) {
  if (MaybeError error = RequireObject(body)) return error;
  FieldReader r(body);
  r.String("model", &out->model);
  r.Unsupported("tools", IsEmpty);
  if (r.Find("prompt")) {
    out->prompt.emplace();
    r.String("prompt", &*out->prompt);
  } else if (r.Find("messages")) {
    out->add_special_tokens = false;
    ReadChatInput(&r, limits, &out->input);
  } else {
    r.Bad("prompt", "is missing, and so is messages");
  }
  r.Bool("add_special_tokens", &out->add_special_tokens);
  r.Bool("return_token_strs", &out->return_token_strs);
  return r.error();
}

MaybeError ParseDetokenizeRequest(const Json& body, const RequestLimits&, DetokenizeRequest* out) {
  if (MaybeError error = RequireObject(body)) return error;
  FieldReader r(body);
  r.String("model", &out->model);
  if (!r.Find("tokens")) r.Bad("tokens", "is missing");
  r.TokenIds("tokens", SIZE_MAX, &out->tokens);
  return r.error();
}

}  // namespace lserve
