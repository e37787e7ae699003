#include "server/chat_input.h"

namespace lserve {
namespace {

// Content is a string or a list of text parts, which are joined as they stand.
MaybeError ReadContent(const Json& content, const std::string& field, std::string* out) {
  if (content.is_string()) {
    *out = content.get<std::string>();
    return {};
  }
  if (!content.is_array()) {
    return BadField(field, "must be a string or a list of text parts, not {}", KindName(content));
  }
  for (size_t i = 0; i < content.size(); ++i) {
    const Json& part = content[i];
    const std::string name = fmt::format("{}[{}]", field, i);
    if (!part.is_object()) return BadField(name, "must be an object, not {}", KindName(part));
    FieldReader reader(part, name + ".");
    std::string type;
    reader.String("type", &type);
    if (reader.failed()) return reader.error();
    if (type != "text") {
      return BadField(name + ".type", "\"{}\" is not supported, only \"text\" is",
                      type.substr(0, 40));
    }
    if (!reader.Find("text")) return BadField(name + ".text", "is missing");
    std::string text;
    reader.String("text", &text);
    if (reader.failed()) return reader.error();
    *out += text;
  }
  return {};
}

MaybeError ReadMessage(const Json& message, const std::string& name, Json* out) {
  if (!message.is_object()) return BadField(name, "must be an object, not {}", KindName(message));
  FieldReader reader(message, name + ".");
  std::string role;
  if (!reader.Find("role")) return BadField(name + ".role", "is missing");
  reader.String("role", &role);
  if (reader.failed()) return reader.error();
  if (role == "tool" || role == "function") {
    return ApiError{400, fmt::format("{}.role: \"{}\" is not supported by this server", name, role),
                    name + ".role", "unsupported_parameter"};
  }
  if (role != "system" && role != "developer" && role != "user" && role != "assistant") {
    return BadField(name + ".role", "\"{}\" is not one of system, developer, user, assistant",
                    role.substr(0, 40));
  }
  const auto empty_list = [](const Json& value) { return value.is_array() && value.empty(); };
  reader.Unsupported("tool_calls", empty_list);
  reader.Unsupported("function_call");
  reader.Unsupported("audio");
  reader.Unsupported("refusal");
  std::string author, reasoning;
  reader.String("name", &author);
  reader.String("reasoning_content", &reasoning);
  if (reader.failed()) return reader.error();

  const Json* content = reader.Find("content");
  if (!content) return BadField(name + ".content", "is missing");
  std::string text;
  if (MaybeError error = ReadContent(*content, name + ".content", &text)) return error;
  // Templates know the older name of the role.
  *out = {{"role", role == "developer" ? "system" : role}, {"content", std::move(text)}};
  if (reader.Find("name")) (*out)["name"] = std::move(author);
  if (reader.Find("reasoning_content")) (*out)["reasoning_content"] = std::move(reasoning);
  return {};
}

}  // namespace

void ReadChatInput(FieldReader* reader, const RequestLimits& limits, ChatInput* out) {
  const Json* messages = reader->Find("messages");
  if (!messages) return reader->Bad("messages", "is missing");
  if (!messages->is_array()) {
    return reader->Bad("messages", "must be a list, not {}", KindName(*messages));
  }
  if (messages->empty()) return reader->Bad("messages", "is empty");
  if (messages->size() > limits.messages) {
    return reader->Bad("messages", "{} messages, the limit is {}", messages->size(),
                       limits.messages);
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    Json message;
    if (MaybeError error = ReadMessage((*messages)[i], fmt::format("messages[{}]", i), &message)) {
      return reader->Fail(*error);
    }
    out->messages.push_back(std::move(message));
  }
  if (const Json* kwargs = reader->Object("chat_template_kwargs")) {
    for (const char* name : {"messages", "tools", "bos_token", "eos_token"}) {
      if (kwargs->contains(name)) {
        return reader->Bad(fmt::format("chat_template_kwargs.{}", name), "is set by the server");
      }
    }
    out->kwargs = *kwargs;
  }
  reader->Bool("add_generation_prompt", &out->add_generation_prompt);
}

}  // namespace lserve
