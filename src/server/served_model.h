// The engine's model as requests meet it: the names it answers to, its chat template, and the way
// from a checked request to the engine's own Requests. Immutable; any thread. Encoding a long
// prompt takes time: not for network threads.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "server/api_error.h"
#include "server/openai_request.h"
#include "server/options.h"

namespace lserve {

class ServedModel {
 public:
  // Both outlive the object. A template that cannot be read is kept as template_status.
  ServedModel(Engine* engine, const ServerOptions* options);

  Engine& engine() const { return *engine_; }
  const std::vector<std::string>& names() const { return names_; }
  const std::string& name() const { return names_.front(); }
  const Status& template_status() const { return template_status_; }

  // 404 for a model that is not served; an empty name is any model.
  MaybeError CheckName(const std::string& model) const;

  std::vector<int32_t> EncodeText(std::string_view text, bool add_special) const;
  // Special tokens count where the template writes them; where a message's content spells one it is
  // ordinary text, so that a user cannot end his turn and speak as the system.
  MaybeError EncodeChat(const ChatInput& input, bool add_special, std::vector<int32_t>* out) const;

  // One engine request for each prompt and choice, prompt by prompt; ids are "ID-INDEX". Errors:
  // context_length_exceeded, limits, token ids outside the vocabulary.
  MaybeError MakeRequests(const CompletionRequest& request, const std::string& id,
                          std::vector<Request>* out) const;

 private:
  std::string HideSpecials(const std::string& content, const std::string& mark) const;
  MaybeError CheckLength(const CompletionRequest& request, size_t tokens, int* max_tokens) const;

  Engine* const engine_;
  const ServerOptions& options_;
  std::vector<std::string> names_;
  std::unique_ptr<ChatTemplate> template_;
  Status template_status_;
  std::vector<std::string> specials_;  // texts of special tokens
  bool special_start_[256] = {};       // first bytes of specials_
};

}  // namespace lserve
