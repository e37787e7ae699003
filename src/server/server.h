// The HTTP server: OpenAI's API over one engine. It starts before there is an engine (everything
// that needs one answers 503 "loading", /health too) and must be destroyed before the engine it was
// given. All functions may be called from any thread, except that Drain, Stop and the destructor
// wait for the server's own threads and so must not be called on them.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "core/status.h"
#include "engine/engine.h"
#include "server/options.h"

namespace lserve {

class Server {
 public:
  // Binds, listens and starts the threads. `engine` may be null: see SetEngine. Errors name the
  // address, the option, or the line of the chat template at fault.
  static Result<std::unique_ptr<Server>> Start(ServerOptions options, Engine* engine);
  virtual ~Server() = default;  // Stop()

  // Gives the engine to a server that has none yet. The error is that of a chat template that
  // cannot be read: chat requests are then answered with it, everything else works.
  virtual Status SetEngine(Engine* engine) = 0;

  // The port that is listened on.
  virtual int port() const = 0;

  // Stops accepting, lets running requests end for at most `timeout`, aborts the rest, and stops.
  // True: nothing had to be aborted. Stop() on another thread cuts the wait short.
  virtual bool Drain(std::chrono::milliseconds timeout) = 0;
  // Aborts everything and returns when the threads have ended. Idempotent.
  virtual void Stop() = 0;
};

}  // namespace lserve
