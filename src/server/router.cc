#include "server/router.h"

#include <algorithm>

#include "server/completion_call.h"
#include "server/endpoints.h"

namespace lserve {
namespace {

// Adds headers to whatever is answered.
class HeaderResponder : public Responder {
 public:
  HeaderResponder(std::shared_ptr<Responder> next,
                  std::vector<std::pair<std::string, std::string>> h)
      : next_(std::move(next)), headers_(std::move(h)) {}
  void Send(HttpResponse response) override { next_->Send(Add(std::move(response))); }
  void BeginStream(HttpResponse head) override { next_->BeginStream(Add(std::move(head))); }
  void Write(std::string_view piece) override { next_->Write(piece); }
  void End() override { next_->End(); }
  boost::asio::any_io_executor executor() override { return next_->executor(); }

 private:
  HttpResponse Add(HttpResponse response) const {
    response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
    return response;
  }
  const std::shared_ptr<Responder> next_;
  const std::vector<std::pair<std::string, std::string>> headers_;
};

constexpr char kGet[] = "GET, HEAD, OPTIONS", kPost[] = "POST, OPTIONS",
               kDelete[] = "DELETE, OPTIONS";

bool Allows(const std::string& methods, const std::string& method) {
  return (", " + methods + ",").find(", " + method + ",") != std::string::npos;
}

// JSON, or nothing said about it. A page in a browser cannot send this type without asking (CORS)
// first.
bool IsJson(std::string type) {
  type = type.substr(0, type.find(';'));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  std::transform(type.begin(), type.end(), type.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return type.empty() || type == "application/json";
}

}  // namespace

Router::Router(App* app) : app_(app), keys_(app->options.api_keys) {
  const auto get = [&](const char* path, HttpResponse (*make)(const App&), bool open = false) {
    routes_[path] = {[app, make](HttpRequest, std::shared_ptr<Responder> responder) {
                       HttpResponse response = make(*app);
                       app->metrics.CountResponse(response.status);
                       responder->Send(std::move(response));
                       return std::shared_ptr<Exchange>();
                     },
                     kGet, open};
  };
  const auto post = [&](const char* path, auto start) {
    routes_[path] = {[app, start](HttpRequest request, std::shared_ptr<Responder> responder) {
                       return start(app, std::move(request), std::move(responder));
                     },
                     kPost, false};
  };
  const auto completion = [&](const char* path, bool chat) {
    routes_[path] = {[app, chat](HttpRequest request, std::shared_ptr<Responder> responder) {
                       return StartCompletion(app, chat, std::move(request), std::move(responder));
                     },
                     kPost, false};
  };
  get("/health", GetHealth, true);
  get("/live", GetLive, true);
  get("/version", GetVersion);
  get("/metrics", GetMetrics);
  get("/v1/models", GetModels);
  post("/tokenize", StartTokenize);
  post("/detokenize", StartDetokenize);
  completion("/v1/chat/completions", true);
  completion("/v1/completions", false);
  get("/openapi.json", GetOpenApi);
  for (const std::string path : {"/v1/chat/completions/", "/v1/completions/"}) {
    routes_[path] = {[app, path](HttpRequest request, std::shared_ptr<Responder> responder) {
                       HttpResponse response =
                           AbortCompletion(app, request.path.substr(path.size()));
                       app->metrics.CountResponse(response.status);
                       responder->Send(std::move(response));
                       return std::shared_ptr<Exchange>();
                     },
                     kDelete, false};
  }
}

std::string Router::AllowedOrigin(const std::string& origin) const {
  if (origin.empty()) return "";
  for (const std::string& allowed : app_->options.cors_origins) {
    if (allowed == "*" || allowed == origin) return allowed;
  }
  return "";
}

const Router::Route* Router::Find(const std::string& path) const {
  auto found = routes_.find(path);
  if (found == routes_.end() && path.find('/') != std::string::npos)
    found = routes_.find(path.substr(0, path.rfind('/') + 1));
  return found == routes_.end() || found->first == "/" ? nullptr : &found->second;
}

HttpResponse Router::Options(const Route& route, bool cors) const {
  const std::string& methods = route.methods;
  HttpResponse response{204, ""};
  response.headers.push_back({"Allow", methods});
  if (cors) {
    response.headers.push_back({"Access-Control-Allow-Methods", methods});
    response.headers.push_back(
        {"Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id"});
    response.headers.push_back({"Access-Control-Max-Age", "600"});
  }
  return response;
}

std::shared_ptr<Exchange> Router::Handle(HttpRequest request,
                                         std::shared_ptr<Responder> responder) const {
  const std::string origin = AllowedOrigin(request.origin);
  if (!origin.empty()) {
    responder = std::make_shared<HeaderResponder>(
        std::move(responder), std::vector<std::pair<std::string, std::string>>{
                                  {"Access-Control-Allow-Origin", origin}, {"Vary", "Origin"}});
  }
  const auto answer = [&](HttpResponse response) {
    app_->metrics.CountResponse(response.status);
    responder->Send(std::move(response));
    return std::shared_ptr<Exchange>();
  };
  const auto refuse = [&](const ApiError& error) { return answer(app_->ErrorResponse(error)); };

  const Route* route = Find(request.path);
  if (route && request.method == "OPTIONS") return answer(Options(*route, !origin.empty()));
  if ((!route || !route->open) && !keys_.Allows(request.authorization)) {
    return refuse({401,
                   request.authorization.empty() ? "an API key is needed: Authorization: Bearer KEY"
                                                 : "the API key is not valid",
                   "", "invalid_api_key"});
  }
  if (!route) {
    return refuse(
        {404, fmt::format("there is no {}", request.path.substr(0, 200)), "", "not_found"});
  }
  if (!Allows(route->methods, request.method)) {
    HttpResponse response = app_->ErrorResponse(
        {405,
         fmt::format("{} cannot be asked for with {}", request.path, request.method.substr(0, 40)),
         "", "method_not_allowed"});
    response.headers.push_back({"Allow", route->methods});
    return answer(std::move(response));
  }
  if (route->methods == kPost && !IsJson(request.content_type)) {
    return refuse({415,
                   fmt::format("Content-Type: must be application/json, not {}",
                               request.content_type.substr(0, 100)),
                   "", "unsupported_media_type"});
  }
  return route->handler(std::move(request), std::move(responder));
}

}  // namespace lserve
