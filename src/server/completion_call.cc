#include "server/completion_call.h"

#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <random>
#include <variant>

#include "server/openai_response.h"
#include "server/sse.h"

namespace lserve {
namespace {

namespace net = boost::asio;
using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

std::string NewId(bool chat) {
  thread_local std::mt19937_64 random{(uint64_t{std::random_device()()} << 32) ^
                                      std::random_device()()};
  return fmt::format("{}-{:016x}{:016x}", chat ? "chatcmpl" : "cmpl", random(), random());
}

// What a worker makes of a request's body.
struct Prepared {
  CompletionRequest request;
  std::vector<Request> engine_requests;
  std::vector<std::string> echoes;  // texts of the prompts
};

struct Choice {
  std::string engine_id;
  int prompt_tokens = 0;
  bool begun = false, finished = false;  // first event seen; last event seen
  bool said_role = false, echoed = false;
  std::string text;
  std::vector<TokenOutput> prompt, tokens;  // for logprobs, as far as they are asked for
  std::optional<CompletionLogprobs> logprobs;
  FinishReason reason = FinishReason::kNone;
  std::optional<std::string> stop_string;
  Usage usage;
  Clock::time_point last_token;
};

class CompletionCall : public Exchange, public std::enable_shared_from_this<CompletionCall> {
 public:
  CompletionCall(App* app, bool chat, std::shared_ptr<const ServedModel> model,
                 std::shared_ptr<Responder> responder)
      : app_(app),
        model_(std::move(model)),
        responder_(std::move(responder)),
        timer_(responder_->executor()) {
    header_ = {chat, NewId(chat), "", static_cast<int64_t>(std::time(nullptr))};
  }

  void Start(HttpRequest http) {
    request_id_ = http.request_id.empty() ? header_.id : http.request_id;
    for (const std::string& id : Ids()) {
      app_->calls.Add(id, responder_->executor(), weak_from_this());
    }
    net::post(*app_->workers, [me = shared_from_this(), body = std::move(http.body)] {
      auto prepared = me->PrepareSafely(body);
      net::post(me->responder_->executor(), [me, prepared = std::move(prepared)]() mutable {
        me->OnPrepared(std::move(prepared));
      });
    });
  }

  void Abort(AbortReason reason) override {
    if (done_) return;
    if (reason == AbortReason::kRequested) {
      Fail({499, "the request was aborted, as somebody asked", "", "aborted"});
    } else if (reason == AbortReason::kTimedOut) {
      Fail({504, "the request took too long and was aborted", "", "timeout"});
    } else {
      Finish("client gone");
    }
  }

 private:
  using Outcome = std::variant<ApiError, Prepared>;

  Outcome PrepareSafely(const std::string& body) const {
    try {
      return Prepare(body);
    } catch (const std::exception& e) {
      return ApiError{500, e.what(), "", "internal_error"};
    }
  }

  // On a worker.
  Outcome Prepare(const std::string& body) const {
    const RequestLimits& limits = app_->options.request;
    Result<Json> json = ParseJson(body, limits.json);
    if (!json.ok()) return ApiError{400, json.status().message(), "", "invalid_json"};
    Prepared out;
    MaybeError error = header_.chat ? ParseChatRequest(*json, limits, &out.request)
                                    : ParseCompletionRequest(*json, limits, &out.request);
    if (!error) error = model_->CheckName(out.request.model);
    if (!error) error = model_->MakeRequests(out.request, header_.id, &out.engine_requests);
    if (error) return *error;
    if (out.request.echo) {
      for (size_t i = 0; i < out.request.prompts.size(); ++i) {
        const auto* text = std::get_if<std::string>(&out.request.prompts[i]);
        const std::vector<int32_t>& ids =
            out.engine_requests[i * static_cast<size_t>(out.request.n)].prompt;
        out.echoes.push_back(text ? *text : model_->engine().tokenizer().Decode(ids));
      }
    }
    return out;
  }

  void OnPrepared(Outcome outcome) {
    if (done_) return;
    if (auto* error = std::get_if<ApiError>(&outcome)) return Fail(*error);
    auto& prepared = std::get<Prepared>(outcome);
    request_ = std::move(prepared.request);
    request_.prompts.clear();
    request_.input = {};
    echoes_ = std::move(prepared.echoes);
    header_.model = request_.model.empty() ? model_->name() : request_.model;

    int64_t tokens = 0;
    for (const Request& r : prepared.engine_requests)
      tokens += static_cast<int64_t>(r.prompt.size());
    if (const int64_t waiting = app_->waiting_tokens;
        waiting > 0 && waiting + tokens > app_->options.queue_tokens) {
      return Fail({429,
                   fmt::format("{} prompt tokens wait already, the limit is {}", waiting,
                               app_->options.queue_tokens),
                   "", "queue_full"});
    }
    key_ =
        app_->hub->Add(responder_->executor(), [weak = weak_from_this()](int choice, Event event) {
          if (auto me = weak.lock()) me->OnEvent(choice, std::move(event));
        });
    choices_.reserve(prepared.engine_requests.size());
    for (Request& r : prepared.engine_requests) {
      Choice choice;
      choice.engine_id = r.id;
      choice.prompt_tokens = static_cast<int>(r.prompt.size());
      if (!header_.chat) choice.logprobs.emplace(&tokenizer());
      const int index = static_cast<int>(choices_.size());
      if (Status s = model_->engine().Submit(std::move(r), app_->hub->SinkFor(key_, index));
          !s.ok()) {
        return Fail(FromStatus(s));
      }
      app_->waiting_tokens += choice.prompt_tokens;
      choices_.push_back(std::move(choice));
    }
    if (request_.stream) Tick();
  }

  // What it can be aborted by.
  std::vector<std::string> Ids() const {
    if (request_id_ == header_.id) return {header_.id};
    return {header_.id, request_id_};
  }

  const Tokenizer& tokenizer() const { return model_->engine().tokenizer(); }

  // ---- events of the engine

  void OnEvent(int index, Event event) {
    if (done_) return;
    Choice& choice = choices_[static_cast<size_t>(index)];
    switch (event.kind) {
      case Event::Kind::kProgress:
        choice.usage = event.usage;
        if (request_.stream && request_.progress) SendProgress(index, event);
        break;
      case Event::Kind::kPromptLogprobs:
        std::move(event.tokens.begin(), event.tokens.end(), std::back_inserter(choice.prompt));
        break;
      case Event::Kind::kTokens:
        OnTokens(index, &choice, std::move(event.tokens));
        break;
      case Event::Kind::kFinish:
        OnFinish(index, &choice, std::move(event));
        break;
    }
  }

  void Begin(Choice* choice) {
    if (std::exchange(choice->begun, true)) return;
    app_->waiting_tokens -= choice->prompt_tokens;
  }

  void OnTokens(int index, Choice* choice, std::vector<TokenOutput> tokens) {
    const auto now = Clock::now();
    if (!choice->begun) {
      app_->metrics.ObserveFirstToken(Seconds(now - arrival_));
    } else {
      app_->metrics.ObserveTokens(Seconds(now - choice->last_token), tokens.size());
    }
    choice->last_token = now;
    Begin(choice);
    if (request_.max_tokens == 0) return;
    std::string text;
    for (const TokenOutput& token : tokens) text += token.text;
    if (!request_.stream) {
      choice->text += text;
      if (request_.logprobs) {
        std::move(tokens.begin(), tokens.end(), std::back_inserter(choice->tokens));
      }
      return;
    }
    SendEcho(index, choice);
    if (text.empty() && !request_.logprobs) return;
    SendText(index, choice, std::move(text), tokens);
  }

  void OnFinish(int index, Choice* choice, Event event) {
    Begin(choice);
    choice->finished = true;
    choice->reason = event.reason;
    choice->stop_string = std::move(event.stop_string);
    choice->usage = event.usage;
    if (request_.max_tokens == 0) {
      choice->usage.completion_tokens = 0;
      choice->reason = FinishReason::kLength;
      event.trailing_text.clear();
    }
    app_->metrics.ObserveFinish(FinishReasonName(event.reason), event.usage,
                                Seconds(Clock::now() - arrival_));
    if (event.reason == FinishReason::kError) return Fail(FromStatus(event.error));
    if (event.reason == FinishReason::kAborted) {
      return Fail({503, "the request was aborted by the server", "", "aborted"});
    }
    if (request_.stream) {
      SendEcho(index, choice);
      if (!event.trailing_text.empty() || (header_.chat && !choice->said_role)) {
        SendText(index, choice, std::move(event.trailing_text), {});
      }
      SendChunk(LastChunkChoice(header_.chat, index, FinishReasonName(choice->reason),
                                choice->stop_string));
    } else {
      choice->text += event.trailing_text;
    }
    if (done_) return;
    for (const Choice& c : choices_) {
      if (!c.finished) return;
    }
    Complete();
  }

  Usage TotalUsage() const {
    Usage total;
    for (size_t i = 0; i < choices_.size(); ++i) {
      const Usage& one = choices_[i].usage;
      if (i % static_cast<size_t>(request_.n) == 0) {
        total.prompt_tokens += choices_[i].prompt_tokens;
        total.cached_tokens += one.cached_tokens;
        total.cached_from_host += one.cached_from_host;
        total.cached_from_files += one.cached_from_files;
      }
      total.completion_tokens += one.completion_tokens;
      total.pages_total += one.pages_total;
      total.pages_read += one.pages_read;
      total.prefill_blocks_total += one.prefill_blocks_total;
      total.prefill_blocks_read += one.prefill_blocks_read;
      if (one.missed) {
        if (!total.missed) total.missed.emplace();
        total.missed->Add(*one.missed);
      }
    }
    return total;
  }

  void Complete() {
    const Usage usage = TotalUsage();
    if (request_.stream) {
      if (request_.include_usage) {
        Json chunk = ChunkFrame(header_);
        chunk["usage"] = UsageJson(usage);
        SendFrame(sse::Data(Dump(chunk)));
      }
      SendFrame(sse::kDone);
      responder_->End();
    } else {
      Json answer = AnswerFrame(header_);
      for (size_t i = 0; i < choices_.size(); ++i) {
        answer["choices"].push_back(MakeChoice(static_cast<int>(i), &choices_[i]));
      }
      answer["usage"] = UsageJson(usage);
      if (header_.chat && request_.prompt_logprobs) {
        answer["prompt_logprobs"] =
            PromptLogprobs(choices_[0].prompt, *request_.prompt_logprobs, tokenizer());
      }
      app_->metrics.CountResponse(200);
      responder_->Send({200, Dump(answer), "application/json", {{"X-Request-Id", request_id_}}});
    }
    usage_ = usage;
    Finish("done");
  }

  Json Logprobs(Choice* choice, const std::vector<TokenOutput>& tokens) {
    if (!request_.logprobs || tokens.empty()) return nullptr;
    if (header_.chat) return ChatLogprobs(tokens, *request_.logprobs, tokenizer());
    return choice->logprobs->Next(tokens, *request_.logprobs);
  }

  const std::string& EchoOf(int index) const {
    return echoes_[static_cast<size_t>(index / request_.n)];
  }

  Json MakeChoice(int index, Choice* choice) {
    std::vector<TokenOutput> tokens;
    if (request_.echo && request_.logprobs) tokens = choice->prompt;
    std::move(choice->tokens.begin(), choice->tokens.end(), std::back_inserter(tokens));
    std::string text = request_.echo ? EchoOf(index) + choice->text : std::move(choice->text);
    Json out = WholeChoice(header_.chat, index, std::move(text), Logprobs(choice, tokens),
                           FinishReasonName(choice->reason), choice->stop_string);
    if (!header_.chat && request_.prompt_logprobs) {
      out["prompt_logprobs"] =
          PromptLogprobs(choice->prompt, *request_.prompt_logprobs, tokenizer());
    }
    return out;
  }

  // ---- streaming

  void SendEcho(int index, Choice* choice) {
    if (!request_.echo || std::exchange(choice->echoed, true)) return;
    SendText(index, choice, EchoOf(index),
             request_.logprobs ? choice->prompt : std::vector<TokenOutput>());
  }

  void SendText(int index, Choice* choice, std::string text,
                const std::vector<TokenOutput>& tokens) {
    const bool first = !std::exchange(choice->said_role, true);
    SendChunk(ChunkChoice(header_.chat, index, std::move(text), Logprobs(choice, tokens), first));
  }

  void SendChunk(Json choice) {
    Json chunk = ChunkFrame(header_);
    chunk["choices"].push_back(std::move(choice));
    if (request_.include_usage) chunk["usage"] = nullptr;
    SendFrame(sse::Data(Dump(chunk)));
  }

  void SendProgress(int index, const Event& event) {
    Json chunk = ChunkFrame(header_);
    chunk["lserve"] = {{"progress",
                        {{"index", index},
                         {"prompt_tokens_processed", event.prompt_done},
                         {"prompt_tokens_total", event.prompt_total}}}};
    SendFrame(sse::Data(Dump(chunk)));
  }

  void SendFrame(std::string_view frame) {
    if (done_) return;
    quiet_ = false;
    if (!std::exchange(streaming_, true)) {
      app_->metrics.CountResponse(200);
      responder_->BeginStream({200,
                               std::string(frame),
                               "text/event-stream",
                               {{"Cache-Control", "no-cache"},
                                {"X-Accel-Buffering", "no"},
                                {"X-Request-Id", request_id_}}});
    } else {
      responder_->Write(frame);  // may find that the client does not read and abort
    }
  }

  // Keeps a quiet stream alive.
  void Tick() {
    timer_.expires_after(app_->options.keepalive_time);
    timer_.async_wait([weak = weak_from_this()](boost::system::error_code ec) {
      auto me = weak.lock();
      if (ec || !me || me->done_) return;
      if (me->quiet_) me->SendFrame(sse::kKeepAlive);
      me->quiet_ = true;
      if (!me->done_) me->Tick();
    });
  }

  // ---- ends

  void Fail(const ApiError& error) {
    if (done_) return;
    if (streaming_) {
      SendFrame(sse::Data(error.ToJson()));
      SendFrame(sse::kDone);
      responder_->End();
    } else {
      HttpResponse response = app_->ErrorResponse(error);
      response.headers.push_back({"X-Request-Id", request_id_});
      app_->metrics.CountResponse(error.status);
      responder_->Send(std::move(response));
    }
    Finish(error.message);
  }

  void Finish(std::string_view how) {
    if (std::exchange(done_, true)) return;
    timer_.cancel();
    app_->hub->Remove(key_);
    for (const std::string& id : Ids()) app_->calls.Remove(id, this);
    for (Choice& choice : choices_) {
      Begin(&choice);
      if (choice.finished) continue;
      model_->engine().Cancel(choice.engine_id);
      app_->metrics.ObserveFinish("abort", choice.usage, Seconds(Clock::now() - arrival_));
    }
    if (app_->options.log_requests) {
      spdlog::info("{} {:.3f} s, {} prompt and {} generated tokens: {}", request_id_,
                   Seconds(Clock::now() - arrival_), usage_.prompt_tokens, usage_.completion_tokens,
                   how);
    }
  }

  App* const app_;
  const std::shared_ptr<const ServedModel> model_;
  const std::shared_ptr<Responder> responder_;
  net::steady_timer timer_;
  const Clock::time_point arrival_ = Clock::now();
  ResponseHeader header_;
  std::string request_id_;
  CompletionRequest request_;
  std::vector<std::string> echoes_;
  std::vector<Choice> choices_;  // prompt by prompt, n each
  uint64_t key_ = 0;
  Usage usage_;
  bool streaming_ = false;  // the stream has begun
  bool quiet_ = true;       // nothing was sent since the last tick
  bool done_ = false;
};

}  // namespace

std::shared_ptr<Exchange> StartCompletion(App* app, bool chat, HttpRequest request,
                                          std::shared_ptr<Responder> responder) {
  std::shared_ptr<const ServedModel> model = app->model();
  if (!model) {
    app->metrics.CountResponse(503);
    responder->Send(app->ErrorResponse(app->LoadingError()));
    return nullptr;
  }
  auto call = std::make_shared<CompletionCall>(app, chat, std::move(model), std::move(responder));
  call->Start(std::move(request));
  return call;
}

}  // namespace lserve
