#include "tests/server/fake_engine.h"

#include <algorithm>

#include "text/utf8.h"

namespace lserve {
namespace {

constexpr std::chrono::seconds kPatience{10};
const char* const kSpecials[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>"};
constexpr int32_t kBos = 256, kEos = 257;

class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(std::function<void()> on_encode) : on_encode_(std::move(on_encode)) {}
  std::vector<int32_t> Encode(std::string_view text, bool add_special,
                              bool parse_special) const override {
    if (on_encode_) on_encode_();
    std::vector<int32_t> ids;
    if (add_special) ids.push_back(kBos);
    while (!text.empty()) {
      size_t taken = 0;
      for (int i = 0; parse_special && i < 4; ++i) {
        const std::string_view special = kSpecials[i];
        if (text.substr(0, special.size()) != special) continue;
        ids.push_back(kBos + i);
        taken = special.size();
        break;
      }
      if (taken == 0) {
        ids.push_back(static_cast<unsigned char>(text[0]));
        taken = 1;
      }
      text.remove_prefix(taken);
    }
    return ids;
  }
  std::string TokenBytes(int32_t id, bool special) const override {
    if (id >= 0 && id < 256) return std::string(1, static_cast<char>(id));
    return special && id < kFakeVocab ? kSpecials[id - 256] : "";
  }
  std::string Decode(const std::vector<int32_t>& ids, bool special) const override {
    std::string bytes, text;
    for (const int32_t id : ids) bytes += TokenBytes(id, special);
    text::AppendValidUtf8(bytes, &text);
    return text;
  }
  int vocab_size() const override { return kFakeVocab; }
  int32_t bos() const override { return kBos; }
  int32_t eos() const override { return kEos; }
  bool is_special(int32_t id) const override { return id >= 256; }
  bool strips_leading_space() const override { return false; }
  int32_t Find(std::string_view piece) const override {
    for (int i = 0; i < 4; ++i) {
      if (piece == kSpecials[i]) return kBos + i;
    }
    return piece.size() == 1 ? static_cast<unsigned char>(piece[0]) : -1;
  }

 private:
  const std::function<void()> on_encode_;
};

TokenOutput WithLogprobs(int32_t id, int top) {
  TokenOutput out;
  out.id = id;
  out.logprob = TokenLogprob{id, -0.25f, 1};
  for (int i = 0; i < top; ++i) {
    out.top.push_back({(id + i) % kFakeVocab, -0.25f - static_cast<float>(i), i + 1});
  }
  return out;
}

}  // namespace

FakeEngine::FakeEngine(Settings settings) : settings_(std::move(settings)) {
  if (settings_.chat_template.empty()) {
    settings_.chat_template =
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content "
        "}}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  }
  options_.model = "fake.gguf";
  config_.name = "fake";
  config_.vocab = kFakeVocab;
  config_.eos = {kEos};
  tokenizer_ = std::make_unique<ByteTokenizer>(settings_.on_encode);
  stats_.retrieval_pages = stats_.streaming_pages = 100;
  thread_ = std::thread([this] { Loop(); });
}

FakeEngine::~FakeEngine() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void FakeEngine::Pause(bool paused) {
  std::lock_guard lock(mutex_);
  paused_ = paused;
  changed_.notify_all();
}

void FakeEngine::Kill() {
  std::lock_guard lock(mutex_);
  alive_ = false;
}

bool FakeEngine::WaitForSubmitted(int count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience,
                           [&] { return static_cast<int>(submitted_.size()) >= count; });
}

bool FakeEngine::WaitForCancelled(int count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return cancelled_ >= count; });
}

bool FakeEngine::WaitUntilIdle() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return running_.empty(); });
}

std::vector<Request> FakeEngine::submitted() const {
  std::lock_guard lock(mutex_);
  return submitted_;
}

Status FakeEngine::Submit(Request request, EventSink sink) {
  if (Status s = CheckSampling(request.sampling, kFakeVocab); !s.ok()) return s;
  std::lock_guard lock(mutex_);
  if (!alive_) return Unavailable("the engine has stopped after an internal error");
  if (static_cast<int>(running_.size()) >= settings_.max_queue) {
    return ResourceExhausted("the queue is full: {} requests wait", running_.size());
  }
  submitted_.push_back(request);
  Running running;
  running.request = std::move(request);
  running.sink = std::move(sink);
  Plan(&running);
  running_.push_back(std::move(running));
  changed_.notify_all();
  return Ok();
}

void FakeEngine::Cancel(const std::string& id) {
  std::lock_guard lock(mutex_);
  to_cancel_.insert(id);
  changed_.notify_all();
}

EngineStats FakeEngine::stats() const {
  std::lock_guard lock(mutex_);
  EngineStats out = stats_;
  out.alive = alive_;
  out.running = static_cast<int>(running_.size());
  out.retrieval_pages_used = out.running;
  return out;
}

// The whole answer, decided at once.
void FakeEngine::Plan(Running* running) const {
  const SamplingParams& s = running->request.sampling;
  std::string text = settings_.answer;
  if (s.seed && !text.empty()) {
    const std::string turned = "seed " + std::to_string(*s.seed % 1000) + " ";
    text = turned + text;
  }
  const auto budget = static_cast<size_t>(s.max_tokens);
  running->reason = FinishReason::kStop;
  while (s.ignore_eos && !text.empty() && text.size() < budget) text += text;
  size_t end = text.size();
  for (const std::string& stop : s.stop) {
    const size_t at = text.find(stop);
    if (at < end && at + stop.size() <= budget) {
      end = at;
      running->stop_string = stop;
    }
  }
  text.resize(end);
  if (text.size() > budget) {
    text.resize(budget);
    running->reason = FinishReason::kLength;
  }
  for (const char c : text) running->answer.push_back(static_cast<unsigned char>(c));
}

bool FakeEngine::Finish(Running* running, FinishReason reason) {
  Event event;
  event.kind = Event::Kind::kFinish;
  event.reason = reason;
  if (reason != FinishReason::kAborted && !running->pending.empty())
    event.trailing_text = "\xef\xbf\xbd";
  if (reason == FinishReason::kError) event.error = Internal("made to fail");
  event.stop_string = running->stop_string;
  event.usage.prompt_tokens = static_cast<int>(running->request.prompt.size());
  event.usage.completion_tokens = static_cast<int>(running->sent);
  event.usage.cached_tokens = 3;
  event.usage.pages_total = 10;
  event.usage.pages_read = 4;
  if (running->request.audit.value_or(0) > 0) {
    event.usage.missed = MissedMass{2, 8, 0.5, 0.25};
    stats_.audits += 2;
  }
  stats_.prefix_queries += event.usage.prompt_tokens;
  stats_.prefix_hits += event.usage.cached_tokens;
  stats_.prompt_tokens += event.usage.prompt_tokens;
  stats_.generation_tokens += event.usage.completion_tokens;
  stats_.computed_tokens += event.usage.prompt_tokens + event.usage.completion_tokens;
  ++stats_.steps;
  running->sink(std::move(event));
  return false;
}

bool FakeEngine::Step(Running* running) {
  const Request& request = running->request;
  const int prompt = static_cast<int>(request.prompt.size());
  if (!running->begun) {
    running->begun = true;
    std::string text;
    for (const int32_t id : request.prompt) text += tokenizer_->TokenBytes(id);
    if (text.find("FAIL") != std::string::npos) return Finish(running, FinishReason::kError);
    Event progress;
    progress.kind = Event::Kind::kProgress;
    progress.prompt_done = progress.prompt_total = prompt;
    if (request.progress) running->sink(progress);
    if (request.sampling.prompt_logprobs >= 0) {
      Event event;
      event.kind = Event::Kind::kPromptLogprobs;
      for (int i = 0; i < prompt; ++i) {
        event.tokens.push_back(
            WithLogprobs(request.prompt[static_cast<size_t>(i)], request.sampling.prompt_logprobs));
      }
      event.tokens[0].logprob.reset();
      event.tokens[0].top.clear();
      running->sink(std::move(event));
    }
    return true;
  }
  if (running->sent == running->answer.size()) return Finish(running, running->reason);
  const int32_t id = running->answer[running->sent++];
  if (running->sent == settings_.pause_after) paused_ = true;
  TokenOutput token;
  token.id = id;
  if (request.sampling.logprobs >= 0) token = WithLogprobs(id, request.sampling.logprobs);
  std::string pending;
  text::AppendValidUtf8(running->pending + static_cast<char>(id), &token.text, &pending);
  running->pending = std::move(pending);
  Event event;
  event.tokens.push_back(std::move(token));
  running->sink(std::move(event));
  return true;
}

void FakeEngine::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock,
                  [&] { return stop_ || !to_cancel_.empty() || (!paused_ && !running_.empty()); });
    if (stop_) break;
    for (auto it = running_.begin(); it != running_.end();) {
      bool more = true;
      if (to_cancel_.count(it->request.id) > 0) {
        ++cancelled_;
        more = Finish(&*it, FinishReason::kAborted);
      } else if (!paused_) {
        more = Step(&*it);
      }
      it = more ? it + 1 : running_.erase(it);
    }
    to_cancel_.clear();
    changed_.notify_all();
    lock.unlock();  // lets others in between two steps
    lock.lock();
  }
  for (Running& running : running_) Finish(&running, FinishReason::kAborted);
}

}  // namespace lserve
