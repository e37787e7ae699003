#include "server/endpoints.h"

#include "server/json.h"
#include "text/utf8.h"

namespace lserve {
namespace {

HttpResponse JsonResponse(const Json& body, int status = 200) { return {status, Dump(body)}; }

// Reads the body with `parse` and answers with `answer`, on a worker.
template <typename Parsed, typename Parse, typename Answer>
std::shared_ptr<Exchange> StartJson(App* app, HttpRequest request,
                                    std::shared_ptr<Responder> responder, Parse parse,
                                    Answer answer) {
  auto make = [app, body = std::move(request.body), parse, answer]() -> HttpResponse {
    const std::shared_ptr<const ServedModel> model = app->model();
    if (!model) return app->ErrorResponse(app->LoadingError());
    Result<Json> json = ParseJson(body, app->options.request.json);
    if (!json.ok()) {
      return app->ErrorResponse({400, json.status().message(), "", "invalid_json"});
    }
    Parsed parsed;
    MaybeError error = parse(*json, app->options.request, &parsed);
    if (!error) error = model->CheckName(parsed.model);
    Json out;
    if (!error) error = answer(*model, parsed, &out);
    return error ? app->ErrorResponse(*error) : JsonResponse(out);
  };
  return AnswerOnWorker(app, std::move(responder), [app, make = std::move(make)] {
    HttpResponse response = make();
    app->metrics.CountResponse(response.status);
    return response;
  });
}

MaybeError Tokenize(const ServedModel& model, const TokenizeRequest& request, Json* out) {
  std::vector<int32_t> ids;
  if (request.prompt) {
    ids = model.EncodeText(*request.prompt, request.add_special_tokens);
  } else if (MaybeError error = model.EncodeChat(request.input, request.add_special_tokens, &ids)) {
    return error;
  }
  *out = {{"count", ids.size()}, {"max_model_len", model.engine().max_context()}, {"tokens", ids}};
  if (request.return_token_strs) {
    Json texts = Json::array();
    for (const int32_t id : ids) {
      std::string text;
      text::AppendValidUtf8(model.engine().tokenizer().TokenBytes(id, true), &text);
      texts.push_back(std::move(text));
    }
    (*out)["token_strs"] = std::move(texts);
  }
  return {};
}

MaybeError Detokenize(const ServedModel& model, const DetokenizeRequest& request, Json* out) {
  const int vocab = model.engine().tokenizer().vocab_size();
  for (size_t i = 0; i < request.tokens.size(); ++i) {
    if (request.tokens[i] >= vocab) {
      return BadField(fmt::format("tokens[{}]", i), "{} is outside the vocabulary of {}",
                      request.tokens[i], vocab);
    }
  }
  *out = {{"prompt", model.engine().tokenizer().Decode(request.tokens, true)}};
  return {};
}

}  // namespace

HttpResponse GetHealth(const App& app) {
  const auto model = app.model();
  if (model && model->engine().stats().alive) return JsonResponse({{"status", "ok"}});
  HttpResponse response = app.ErrorResponse(
      model ? ApiError{503, "the engine has stopped after an internal error", "", "dead"}
            : app.LoadingError());
  return response;
}

HttpResponse GetLive(const App&) { return JsonResponse({{"status", "ok"}}); }

HttpResponse GetVersion(const App&) { return JsonResponse({{"version", LSERVE_VERSION}}); }

HttpResponse GetMetrics(const App& app) {
  const auto model = app.model();
  EngineStats stats;
  if (model) stats = model->engine().stats();
  return {200, app.metrics.Text(model ? &stats : nullptr),
          "text/plain; version=0.0.4; charset=utf-8"};
}

HttpResponse GetModels(const App& app) {
  const auto model = app.model();
  if (!model) return app.ErrorResponse(app.LoadingError());
  Json list = Json::array();
  for (const std::string& name : model->names()) {
    list.push_back({{"id", name},
                    {"object", "model"},
                    {"created", app.started},
                    {"owned_by", "lserve"},
                    {"root", model->engine().options().model},
                    {"parent", nullptr},
                    {"max_model_len", model->engine().max_context()}});
  }
  return JsonResponse({{"object", "list"}, {"data", std::move(list)}});
}

HttpResponse AbortCompletion(App* app, const std::string& id) {
  if (app->calls.Abort(id)) return JsonResponse({{"id", id}, {"object", "completion.aborted"}});
  return app->ErrorResponse(
      {404, fmt::format("no request with id '{}' is running", id.substr(0, 200)), "", "not_found"});
}

std::shared_ptr<Exchange> StartTokenize(App* app, HttpRequest request,
                                        std::shared_ptr<Responder> responder) {
  return StartJson<TokenizeRequest>(app, std::move(request), std::move(responder),
                                    ParseTokenizeRequest, Tokenize);
}

std::shared_ptr<Exchange> StartDetokenize(App* app, HttpRequest request,
                                          std::shared_ptr<Responder> responder) {
  return StartJson<DetokenizeRequest>(app, std::move(request), std::move(responder),
                                      ParseDetokenizeRequest, Detokenize);
}

}  // namespace lserve
