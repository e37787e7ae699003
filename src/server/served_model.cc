#include "server/served_model.h"

#include <algorithm>
#include <ctime>
#include <random>

namespace lserve {
namespace {

// Seed of choice `index`: the request's own for the first, so that n does not change it.
uint64_t ChoiceSeed(uint64_t seed, int index) {
  if (index == 0) return seed;
  uint64_t x = seed + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(index);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Begins a mark that stands for a special token's text in a rendered prompt: a noncharacter and
// what nobody can guess.
std::string NewMark() {
  thread_local std::mt19937_64 random{(uint64_t{std::random_device()()} << 32) ^
                                      std::random_device()()};
  return fmt::format("\xef\xb7\x90{:016x}:", random());
}
constexpr std::string_view kMarkEnd = "\xef\xb7\x91";

std::string TokenText(const Tokenizer& tokenizer, int32_t id) {
  return id < 0 ? std::string() : tokenizer.TokenBytes(id, true);
}

}  // namespace

ServedModel::ServedModel(Engine* engine, const ServerOptions* options)
    : engine_(engine), options_(*options), names_(options->model_names) {
  if (names_.empty()) {
    const std::string& own = engine->config().name;
    names_.push_back(own.empty() ? "default" : own);
  }
  const std::string& source =
      options->chat_template.empty() ? engine->chat_template() : options->chat_template;
  if (source.empty()) {
    template_status_ =
        Unsupported("the model {} has no chat template: use /v1/completions", name());
  } else if (auto parsed = ChatTemplate::Parse(source, options->template_limits); parsed.ok()) {
    template_ = std::move(*parsed);
  } else {
    template_status_ = parsed.status().Annotate("chat template");
  }
  const Tokenizer& tokenizer = engine->tokenizer();
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id)) continue;
    std::string text = tokenizer.TokenBytes(id, true);
    if (text.empty()) continue;
    special_start_[static_cast<unsigned char>(text[0])] = true;
    specials_.push_back(std::move(text));
  }
}

MaybeError ServedModel::CheckName(const std::string& model) const {
  if (model.empty()) return {};
  for (const std::string& name : names_) {
    if (name == model) return {};
  }
  return ApiError{
      404, fmt::format("model: \"{}\" is not served here, \"{}\" is", model.substr(0, 200), name()),
      "model", "model_not_found"};
}

std::vector<int32_t> ServedModel::EncodeText(std::string_view text, bool add_special) const {
  return engine_->tokenizer().Encode(text, add_special, true);
}

std::string ServedModel::HideSpecials(const std::string& content, const std::string& mark) const {
  std::string out;
  size_t done = 0;
  for (size_t pos = 0; pos < content.size();) {
    size_t length = 0;
    if (special_start_[static_cast<unsigned char>(content[pos])]) {
      for (size_t i = 0; i < specials_.size(); ++i) {
        if (content.compare(pos, specials_[i].size(), specials_[i]) != 0) continue;
        length = specials_[i].size();
        out.append(content, done, pos - done);
        out += fmt::format("{}{}{}", mark, i, kMarkEnd);
        done = pos + length;
        break;
      }
    }
    pos += std::max<size_t>(length, 1);
  }
  if (done == 0) return content;
  return out.append(content, done);
}

MaybeError ServedModel::EncodeChat(const ChatInput& input, bool add_special,
                                   std::vector<int32_t>* out) const {
  if (!template_) return ApiError{400, template_status_.message(), "messages", "no_chat_template"};
  const Tokenizer& tokenizer = engine_->tokenizer();
  const std::string mark = NewMark();
  Json context = input.kwargs;
  context["messages"] = input.messages;
  for (Json& message : context["messages"]) {
    message["content"] = HideSpecials(message["content"].get_ref<const std::string&>(), mark);
  }
  context["tools"] = nullptr;
  context["documents"] = nullptr;
  context["add_generation_prompt"] = input.add_generation_prompt;
  context["bos_token"] = TokenText(tokenizer, tokenizer.bos());
  context["eos_token"] = TokenText(tokenizer, tokenizer.eos());
  Result<std::string> text = template_->Render(context, std::time(nullptr));
  if (!text.ok()) {
    return ApiError{400, "messages: the chat template says: " + text.status().message(), "messages",
                    "invalid_value"};
  }
  // Text of the template, mark, text, mark, ..., text.
  std::string_view rest = *text;
  for (bool first = true;; first = false) {
    const size_t at = rest.find(mark);
    const std::vector<int32_t> ids =
        tokenizer.Encode(rest.substr(0, at), add_special && first, true);
    out->insert(out->end(), ids.begin(), ids.end());
    if (at == std::string_view::npos) return {};
    rest.remove_prefix(at + mark.size());
    size_t index = 0;
    while (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') {
      index = index * 10 + static_cast<size_t>(rest[0] - '0');
      rest.remove_prefix(1);
    }
    if (rest.substr(0, kMarkEnd.size()) == kMarkEnd) rest.remove_prefix(kMarkEnd.size());
    if (index < specials_.size()) {
      const std::vector<int32_t> plain = tokenizer.Encode(specials_[index], false, false);
      out->insert(out->end(), plain.begin(), plain.end());
    }
  }
}

MaybeError ServedModel::CheckLength(const CompletionRequest& request, size_t tokens,
                                    int* max_tokens) const {
  const char* field = request.chat ? "messages" : "prompt";
  if (tokens == 0) return BadField(field, "has no tokens");
  const auto context = static_cast<size_t>(engine_->longest(request.attention));
  const bool less = context < static_cast<size_t>(engine_->max_context());
  const auto limit = static_cast<size_t>(options_.request.prompt_tokens);
  if (limit > 0 && tokens > limit) {
    return ApiError{
        400, fmt::format("{}: {} tokens, the limit of this server is {}", field, tokens, limit),
        field, "context_length_exceeded"};
  }
  // A completion of 0 tokens is computed as one that is thrown away.
  const auto wanted = static_cast<size_t>(std::max(1, request.max_tokens.value_or(1)));
  if (tokens + wanted > context) {
    return ApiError{
        400,
        fmt::format(
            "This model's maximum context length is {} tokens{}, but {} were asked "
            "for: {} in the {} and {} to generate.",
            context,
            less ? fmt::format(" with dense attention ({} with lserve's)", engine_->max_context())
                 : "",
            tokens + wanted, tokens, field, wanted),
        field, "context_length_exceeded"};
  }
  *max_tokens = static_cast<int>(request.max_tokens ? wanted : context - tokens);
  const int64_t entries =
      static_cast<int64_t>(tokens) * (std::max(request.prompt_logprobs.value_or(-1),
                                               request.echo ? request.logprobs.value_or(-1) : -1) +
                                      1);
  if (entries > options_.request.prompt_logprobs) {
    return BadField(request.prompt_logprobs ? "prompt_logprobs" : "logprobs",
                    "{} log-probabilities of prompt tokens, the limit is {}", entries,
                    options_.request.prompt_logprobs);
  }
  return {};
}

MaybeError ServedModel::MakeRequests(const CompletionRequest& request, const std::string& id,
                                     std::vector<Request>* out) const {
  std::vector<std::vector<int32_t>> prompts;
  if (request.chat) {
    prompts.emplace_back();
    if (MaybeError error = EncodeChat(request.input, request.add_special_tokens, &prompts.back())) {
      return error;
    }
  }
  for (const Prompt& prompt : request.prompts) {
    if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
      prompts.push_back(*ids);
    } else {
      prompts.push_back(EncodeText(std::get<std::string>(prompt), request.add_special_tokens));
    }
  }
  const int vocab = engine_->config().vocab;
  for (const std::vector<int32_t>& prompt : prompts) {
    Request one;
    one.sampling = request.sampling;
    if (MaybeError error = CheckLength(request, prompt.size(), &one.sampling.max_tokens))
      return error;
    for (const int32_t token : prompt) {
      if (token >= vocab)
        return BadField("prompt", "token id {} is outside the vocabulary of {}", token, vocab);
    }
    one.sampling.min_tokens = std::min(one.sampling.min_tokens, one.sampling.max_tokens);
    one.sampling.logprobs = request.logprobs.value_or(-1);
    one.sampling.prompt_logprobs =
        std::max(request.prompt_logprobs.value_or(-1), request.echo ? one.sampling.logprobs : -1);
    one.attention = request.attention;
    one.budget = request.budget;
    one.audit = request.audit;
    one.progress = request.progress;
    one.priority = request.priority;
    one.cache_salt = request.cache_salt;
    if (Status s = CheckSampling(one.sampling, vocab); !s.ok()) {
      return ApiError{400, s.message(), s.message().substr(0, s.message().find(':')),
                      "invalid_value"};
    }
    one.prompt = prompt;
    for (int choice = 0; choice < request.n; ++choice) {
      Request copy = one;
      copy.id = fmt::format("{}-{}", id, out->size());
      if (copy.sampling.seed) copy.sampling.seed = ChoiceSeed(*copy.sampling.seed, choice);
      out->push_back(std::move(copy));
    }
  }
  return {};
}

}  // namespace lserve
