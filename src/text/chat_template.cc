#include "text/chat_template.h"

#include <utility>

#include "text/jinja_eval.h"
#include "text/jinja_parser.h"
#include "text/utf8.h"

namespace lserve {
namespace {

using jinja::TemplateError;
using jinja::Value;
using Json = nlohmann::ordered_json;

Status ToStatus(const TemplateError& e) {
  if (e.verbatim) return {e.code, e.message};
  if (e.line == 0) return {e.code, "chat template: " + e.message};
  return {e.code, fmt::format("chat template, line {}: {}", e.line, e.message)};
}

Value StringValue(const std::string& s) {
  if (text::IsValidUtf8(s)) return Value::String(s);
  std::string valid;
  text::AppendValidUtf8(s, &valid);
  return Value::String(std::move(valid));
}

Value FromJson(const Json& json, int depth) {
  if (depth > jinja::kMaxValueDepth)
    jinja::FailLimit("the context is nested more than {} deep", jinja::kMaxValueDepth);
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::Bool(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::Int(json.get<int64_t>());
    case Json::value_t::number_unsigned: {
      // As the JSON reader does with integers beyond 64 bits.
      const auto u = json.get<uint64_t>();
      if (u > static_cast<uint64_t>(INT64_MAX)) return Value::Float(static_cast<double>(u));
      return Value::Int(static_cast<int64_t>(u));
    }
    case Json::value_t::number_float:
      return Value::Float(json.get<double>());
    case Json::value_t::string:
      return StringValue(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      jinja::Values items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(FromJson(item, depth + 1));
      return Value::List(std::move(items));
    }
    case Json::value_t::object: {
      jinja::DictBuilder dict;
      for (const auto& [key, value] : json.items())
        dict.Set(StringValue(key), FromJson(value, depth + 1));
      return dict.Take();
    }
    default:
      return Value::None();
  }
}

class JinjaTemplate : public ChatTemplate {
 public:
  JinjaTemplate(jinja::Body body, const TemplateLimits& limits)
      : body_(std::move(body)), limits_(limits) {}

  Result<std::string> Render(const Json& context, std::time_t now) const override {
    if (!context.is_object()) return InvalidArgument("a template's context must be a JSON object");
    jinja::Budget budget(limits_);
    jinja::BudgetScope scope(&budget);
    try {
      const Value variables = FromJson(context, 0);
      return jinja::Evaluator(variables, now).Render(body_);
    } catch (const TemplateError& e) {
      return ToStatus(e);
    }
  }

 private:
  jinja::Body body_;
  TemplateLimits limits_;
};

}  // namespace

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(const std::string& source,
                                                          const TemplateLimits& limits) {
  if (source.size() > limits.source_bytes)
    return ResourceExhausted("the chat template has {} bytes, over the limit of {}", source.size(),
                             limits.source_bytes);
  try {
    std::string valid;
    text::AppendValidUtf8(source, &valid);
    return std::unique_ptr<ChatTemplate>(
        std::make_unique<JinjaTemplate>(jinja::ParseTemplate(valid, limits), limits));
  } catch (const TemplateError& e) {
    return ToStatus(e);
  }
}

}  // namespace lserve
