// The messages of a chat request. Pure function, any thread.
#pragma once

#include "server/field_reader.h"
#include "server/openai_request.h"

namespace lserve {

// Reads messages, chat_template_kwargs and add_generation_prompt; errors go to `reader`.
void ReadChatInput(FieldReader* reader, const RequestLimits& limits, ChatInput* out);

}  // namespace lserve
