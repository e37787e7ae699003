// One chat or text completion from JSON to the last byte of its answer: parsed and tokenised on a
// worker, submitted to the engine (once a prompt and choice), its events turned into an answer or a
// stream on the connection's strand.
#pragma once

#include <memory>

#include "server/app.h"
#include "server/http_types.h"

namespace lserve {

// On the connection's strand.
std::shared_ptr<Exchange> StartCompletion(App* app, bool chat, HttpRequest request,
                                          std::shared_ptr<Responder> responder);

}  // namespace lserve
