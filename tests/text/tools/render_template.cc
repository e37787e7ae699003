// Renders chat templates for chat_template_parity.py. One JSON object a line on standard input:
// {"template": "...", "context": {...}, "now": seconds}; one a line on standard output:
// {"text": "..."} or {"error": "...", "code": "..."}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "text/chat_template.h"

int main() {
  using Json = nlohmann::ordered_json;
  std::string line;
  while (std::getline(std::cin, line)) {
    const Json job = Json::parse(line);
    Json answer;
    auto fail = [&](const lserve::Status& s) {
      answer["error"] = s.message();
      answer["code"] = lserve::CodeName(s.code());
    };
    auto parsed = lserve::ChatTemplate::Parse(job.at("template").get<std::string>());
    if (!parsed.ok()) {
      fail(parsed.status());
    } else {
      auto text = (*parsed)->Render(job.at("context"), job.at("now").get<std::time_t>());
      if (text.ok())
        answer["text"] = *text;
      else
        fail(text.status());
    }
    std::cout << answer.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n" << std::flush;
  }
}
