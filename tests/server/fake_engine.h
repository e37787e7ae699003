// An Engine without a model: its tokens are bytes, its answers a fixed text, and tests decide when
// it goes on. Any thread.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace lserve {

// 256 bytes, then <s>, </s>, <|im_start|>, <|im_end|>, all special.
inline constexpr int kFakeVocab = 260;

class FakeEngine : public Engine {
 public:
  struct Settings {
    int max_context = 4096, longest_dense = 4096;
    int max_queue = 64;
    // Answers are this text, turned by the seed; its bytes are the tokens.
    std::string answer =
        "Gr\xc3\xbc\xc3\x9f"
        "e! The quick brown fox jumps over the lazy dog.";
    size_t pause_after = SIZE_MAX;    // as Pause(true) once an answer has so many tokens
    std::string chat_template;        // empty: a ChatML one
    std::function<void()> on_encode;  // called whenever text is tokenised
  };
  FakeEngine() : FakeEngine(Settings()) {}
  explicit FakeEngine(Settings settings);
  ~FakeEngine() override;

  // While paused, requests are taken and nothing happens to them. Cancelled ones end even then.
  void Pause(bool paused);
  void Kill();  // from now on as after an internal error
  // Waits until so many requests were submitted, or cancelled, since the start. False: not within
  // ten seconds.
  bool WaitForSubmitted(int count);
  bool WaitForCancelled(int count);
  // Waits until no request is left.
  bool WaitUntilIdle();
  std::vector<Request> submitted() const;  // all so far

  Status Submit(Request request, EventSink sink) override;
  void Cancel(const std::string& id) override;
  EngineStats stats() const override;
  const EngineOptions& options() const override { return options_; }
  const ModelConfig& config() const override { return config_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const std::string& chat_template() const override { return settings_.chat_template; }
  int max_context() const override { return settings_.max_context; }
  int longest(std::optional<AttentionMode> attention) const override {
    return attention == AttentionMode::kDense
               ? std::min(settings_.max_context, settings_.longest_dense)
               : settings_.max_context;
  }
  std::string Describe() const override { return "fake"; }

 private:
  struct Running {
    Request request;
    EventSink sink;
    std::vector<int32_t> answer;
    FinishReason reason = FinishReason::kLength;
    std::optional<std::string> stop_string;
    size_t sent = 0;
    std::string pending;  // bytes of an unfinished character
    bool begun = false;
  };
  void Loop();
  void Plan(Running* running) const;
  // One event; false: it was the last.
  bool Step(Running* running);
  bool Finish(Running* running, FinishReason reason);

  Settings settings_;
  EngineOptions options_;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::deque<Running> running_;
  std::vector<Request> submitted_;
  std::set<std::string> to_cancel_;
  int cancelled_ = 0;
  bool paused_ = false, stop_ = false, alive_ = true;
  EngineStats stats_;
  std::thread thread_;
};

}  // namespace lserve
