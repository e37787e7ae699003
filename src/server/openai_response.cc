#include "server/openai_response.h"

#include <algorithm>
#include <cmath>

#include "text/utf8.h"

namespace lserve {
namespace {

// JSON has no infinity: a token that cannot be is told with the value that OpenAI uses for one.
double Finite(float logprob) {
  return std::isfinite(logprob) ? std::max(logprob, -9999.f) : -9999.;
}

std::string TokenText(const Tokenizer& tokenizer, int32_t id) {
  std::string text;
  text::AppendValidUtf8(tokenizer.TokenBytes(id, true), &text);
  return text;
}

Json Bytes(const Tokenizer& tokenizer, int32_t id) {
  Json bytes = Json::array();
  for (const char c : tokenizer.TokenBytes(id, true))
    bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

Json ChatToken(const TokenLogprob& token, const Tokenizer& tokenizer) {
  return {{"token", TokenText(tokenizer, token.id)},
          {"logprob", Finite(token.logprob)},
          {"bytes", Bytes(tokenizer, token.id)}};
}

size_t TopCount(const TokenOutput& token, int top) {
  return std::min(token.top.size(), static_cast<size_t>(std::max(top, 0)));
}

bool IsIn(const TokenOutput& token, size_t count, int32_t id) {
  return std::any_of(token.top.begin(), token.top.begin() + static_cast<std::ptrdiff_t>(count),
                     [&](const TokenLogprob& t) { return t.id == id; });
}

Json Frame(const ResponseHeader& header, const char* object) {
  return {{"id", header.id},
          {"object", object},
          {"created", header.created},
          {"model", header.model},
          {"choices", Json::array()}};
}

}  // namespace

Json AnswerFrame(const ResponseHeader& header) {
  return Frame(header, header.chat ? "chat.completion" : "text_completion");
}

Json ChunkFrame(const ResponseHeader& header) {
  return Frame(header, header.chat ? "chat.completion.chunk" : "text_completion");
}

Json WholeChoice(bool chat, int index, std::string text, Json logprobs, const char* finish_reason,
                 const std::optional<std::string>& stop_string) {
  Json choice = {{"index", index}};
  if (chat) {
    choice["message"] = {{"role", "assistant"}, {"content", std::move(text)}, {"refusal", nullptr}};
  } else {
    choice["text"] = std::move(text);
  }
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = finish_reason;
  choice["stop_reason"] = stop_string ? Json(*stop_string) : Json(nullptr);
  return choice;
}

Json ChunkChoice(bool chat, int index, std::string text, Json logprobs, bool first) {
  Json choice = {{"index", index}};
  if (chat) {
    choice["delta"] = Json::object();
    if (first) choice["delta"]["role"] = "assistant";
    choice["delta"]["content"] = std::move(text);
  } else {
    choice["text"] = std::move(text);
  }
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = nullptr;
  return choice;
}

Json LastChunkChoice(bool chat, int index, const char* finish_reason,
                     const std::optional<std::string>& stop_string) {
  Json choice = {{"index", index}};
  if (chat) {
    choice["delta"] = Json::object();
  } else {
    choice["text"] = "";
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_reason;
  choice["stop_reason"] = stop_string ? Json(*stop_string) : Json(nullptr);
  return choice;
}

Json UsageJson(const Usage& usage) {
  Json own = {{"pages_total", usage.pages_total},
              {"pages_read", usage.pages_read},
              {"prefill_blocks_total", usage.prefill_blocks_total},
              {"prefill_blocks_read", usage.prefill_blocks_read},
              {"cached_from_host", usage.cached_from_host},
              {"cached_from_files", usage.cached_from_files}};
  if (usage.missed) {
    own["audited"] = usage.missed->layer_steps;
    if (usage.missed->heads > 0) {
      own["missed_mass_mean"] = usage.missed->mean();
      own["missed_mass_max"] = usage.missed->max;
    }
  }
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"lserve", std::move(own)}};
}

Json ChatLogprobs(const std::vector<TokenOutput>& tokens, int top, const Tokenizer& tokenizer) {
  Json content = Json::array();
  for (const TokenOutput& token : tokens) {
    Json entry = ChatToken(token.logprob.value_or(TokenLogprob{token.id, -INFINITY, 0}), tokenizer);
    entry["top_logprobs"] = Json::array();
    for (size_t i = 0; i < TopCount(token, top); ++i) {
      entry["top_logprobs"].push_back(ChatToken(token.top[i], tokenizer));
    }
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json CompletionLogprobs::Next(const std::vector<TokenOutput>& tokens, int top) {
  Json texts = Json::array(), logprobs = Json::array(), tops = Json::array();
  Json offsets = Json::array();
  for (const TokenOutput& token : tokens) {
    texts.push_back(TokenText(*tokenizer_, token.id));
    offsets.push_back(offset_);
    std::string whole, pending;
    text::AppendValidUtf8(pending_ + tokenizer_->TokenBytes(token.id), &whole, &pending);
    pending_ = std::move(pending);
    offset_ += std::count_if(whole.begin(), whole.end(),
                             [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
    if (!token.logprob) {  // the first token of a prompt
      logprobs.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    logprobs.push_back(Finite(token.logprob->logprob));
    Json alternatives = Json::object();
    for (size_t i = 0; i < TopCount(token, top); ++i) {
      // Two tokens may look alike where they are parts of characters: the better one counts.
      alternatives.emplace(TokenText(*tokenizer_, token.top[i].id), Finite(token.top[i].logprob));
    }
    if (!IsIn(token, TopCount(token, top), token.id)) {
      alternatives.emplace(TokenText(*tokenizer_, token.id), Finite(token.logprob->logprob));
    }
    tops.push_back(std::move(alternatives));
  }
  return {{"text_offset", std::move(offsets)},
          {"token_logprobs", std::move(logprobs)},
          {"tokens", std::move(texts)},
          {"top_logprobs", std::move(tops)}};
}

Json PromptLogprobs(const std::vector<TokenOutput>& tokens, int top, const Tokenizer& tokenizer) {
  const auto describe = [&](const TokenLogprob& token) -> Json {
    return {{"logprob", Finite(token.logprob)},
            {"rank", token.rank},
            {"decoded_token", TokenText(tokenizer, token.id)}};
  };
  Json list = Json::array();
  for (const TokenOutput& token : tokens) {
    if (!token.logprob) {
      list.push_back(nullptr);
      continue;
    }
    Json entry = {{std::to_string(token.id), describe(*token.logprob)}};
    for (size_t i = 0; i < TopCount(token, top); ++i) {
      entry.emplace(std::to_string(token.top[i].id), describe(token.top[i]));
    }
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace lserve
