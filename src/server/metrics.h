// Prometheus metrics, with vLLM's names behind the prefix "lserve:", so that dashboards carry over.
// Counters of the engine are read from its statistics at each scrape; what only the server knows is
// observed here. Any thread.
#pragma once

#include <memory>
#include <string>

#include "engine/engine.h"

namespace lserve {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // Label model_name of everything observed from now on. REQUIRED before Observe*; once.
  void SetModel(const std::string& name);

  void ObserveFirstToken(double seconds);
  // `tokens` came `seconds` after those before them.
  void ObserveTokens(double seconds, size_t tokens);
  // The end of one engine request, `seconds` after it arrived. "stop", "length", "abort" or
  // "error".
  void ObserveFinish(const char* reason, const Usage& usage, double seconds);
  void CountResponse(int status);

  // The exposition format. `stats`: null while there is no engine.
  std::string Text(const EngineStats* stats) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lserve
