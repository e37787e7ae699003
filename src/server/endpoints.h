// The small endpoints. Get* answer at once; Start* work on a worker thread. On the connection's
// strand.
#pragma once

#include <memory>

#include "server/app.h"
#include "server/http_types.h"

namespace lserve {

HttpResponse GetHealth(const App& app);
HttpResponse GetLive(const App& app);
HttpResponse GetVersion(const App& app);
HttpResponse GetMetrics(const App& app);
HttpResponse GetModels(const App& app);
HttpResponse GetOpenApi(const App& app);  // openapi.cc

// DELETE of a completion by its id or X-Request-Id: it ends within a step.
HttpResponse AbortCompletion(App* app, const std::string& id);

std::shared_ptr<Exchange> StartTokenize(App* app, HttpRequest request,
                                        std::shared_ptr<Responder> responder);
std::shared_ptr<Exchange> StartDetokenize(App* app, HttpRequest request,
                                          std::shared_ptr<Responder> responder);

}  // namespace lserve
