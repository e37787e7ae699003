// From path and method to an endpoint: API keys, CORS, HEAD and OPTIONS, and errors in OpenAI's
// shape for the rest. Handle runs on the connection's strand; immutable otherwise.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "server/api_keys.h"
#include "server/app.h"

namespace lserve {

class Router {
 public:
  explicit Router(App* app);
  std::shared_ptr<Exchange> Handle(HttpRequest request, std::shared_ptr<Responder> responder) const;

 private:
  struct Route {
    HttpHandler handler;
    std::string methods;  // as in Allow; POST has a JSON body
    bool open = false;    // needs no API key
  };
  // The value of Access-Control-Allow-Origin for a request from `origin`; empty: none.
  std::string AllowedOrigin(const std::string& origin) const;
  HttpResponse Options(const Route& route, bool cors) const;
  const Route* Find(const std::string& path) const;

  App* const app_;
  const ApiKeys keys_;
  std::map<std::string, Route> routes_;  // by path; one that ends in '/' stands for all below it
};

}  // namespace lserve
