// GET /openapi.json: what this server understands, for tools that read OpenAPI 3.1.
#include "server/endpoints.h"
#include "server/json.h"

namespace lserve {
namespace {

Json Ref(const char* name) { return {{"$ref", std::string("#/components/schemas/") + name}}; }
Json Integer(int64_t low, int64_t high) {
  return {{"type", "integer"}, {"minimum", low}, {"maximum", high}};
}
Json Number(double low, double high) {
  return {{"type", "number"}, {"minimum", low}, {"maximum", high}};
}
Json Positive(double high) {
  return {{"type", "number"}, {"exclusiveMinimum", 0}, {"maximum", high}};
}
Json ArrayOf(Json items) { return {{"type", "array"}, {"items", std::move(items)}}; }
Json OneOf(Json options) { return {{"anyOf", std::move(options)}}; }

const Json kString = {{"type", "string"}}, kBool = {{"type", "boolean"}};
constexpr int64_t kInt = INT32_MAX;

// Fields that chats and completions share.
Json SharedFields(const RequestLimits& limits) {
  const Json stop = {{"type", "string"}, {"minLength", 1}};
  Json stops = ArrayOf(stop);
  stops["maxItems"] = limits.stop_strings;
  Json stop_ids = ArrayOf(Integer(0, kInt));
  stop_ids["maxItems"] = limits.stop_token_ids;
  return {
      {"model", kString},
      {"n", Integer(1, limits.n)},
      {"temperature", Number(0, 100)},
      {"top_p", Positive(1)},
      {"top_k", Integer(-1, kInt)},
      {"min_p", Number(0, 1)},
      {"presence_penalty", Number(-2, 2)},
      {"frequency_penalty", Number(-2, 2)},
      {"repetition_penalty", Positive(100)},
      {"seed", {{"type", "integer"}}},
      {"min_tokens", Integer(0, kInt)},
      {"stop", OneOf(Json::array({stop, stops}))},
      {"stop_token_ids", stop_ids},
      {"ignore_eos", kBool},
      {"logit_bias",
       {{"type", "object"},
        {"maxProperties", limits.logit_bias},
        {"additionalProperties", Number(-100, 100)}}},
      {"stream", kBool},
      {"stream_options", {{"type", "object"}, {"properties", {{"include_usage", kBool}}}}},
      {"prompt_logprobs", Integer(0, limits.top_logprobs)},
      {"add_special_tokens", kBool},
      {"priority", Integer(-kInt, kInt)},
      {"user", kString},
      {"cache_salt", {{"type", "string"}, {"maxLength", limits.cache_salt_bytes}}},
      {"lserve",
       {{"type", "object"},
        {"properties",
         {{"attention", {{"type", "string"}, {"enum", {"lserve", "dense"}}}},
          {"budget", Integer(1, kInt)},
          {"audit", Integer(0, kInt)},
          {"progress", kBool}}}}},
  };
}

Json Object(Json properties, Json required) {
  return {
      {"type", "object"}, {"properties", std::move(properties)}, {"required", std::move(required)}};
}

Json Schemas(const RequestLimits& limits) {
  Json chat = SharedFields(limits), completion = chat;
  chat["messages"] = ArrayOf(Ref("Message"));
  chat["messages"]["minItems"] = 1;
  chat["max_tokens"] = chat["max_completion_tokens"] = Integer(1, kInt);
  chat["logprobs"] = kBool;
  chat["top_logprobs"] = Integer(0, limits.top_logprobs);
  const Json ids = ArrayOf(Integer(0, kInt));
  completion["prompt"] = OneOf(Json::array({kString, ArrayOf(kString), ids, ArrayOf(ids)}));
  completion["max_tokens"] = Integer(0, kInt);
  completion["logprobs"] = Integer(0, limits.top_logprobs);
  completion["echo"] = kBool;
  const Json part =
      Object({{"type", {{"const", "text"}}}, {"text", kString}}, Json::array({"type", "text"}));
  const Json message = Object({{"role", kString},
                               {"content", OneOf(Json::array({kString, ArrayOf(part)}))},
                               {"name", kString}},
                              Json::array({"role", "content"}));
  const Json error = Object({{"message", kString},
                             {"type", kString},
                             {"param", {{"type", {"string", "null"}}}},
                             {"code", {{"type", {"string", "null"}}}}},
                            Json::array({"message", "type", "param", "code"}));
  return {{"ChatRequest", Object(chat, Json::array({"messages"}))},
          {"CompletionRequest", Object(completion, Json::array({"prompt"}))},
          {"Message", message},
          {"Error", Object({{"error", error}}, Json::array({"error"}))},
          {"TokenizeRequest", Object({{"prompt", kString},
                                      {"messages", ArrayOf(Ref("Message"))},
                                      {"add_special_tokens", kBool},
                                      {"return_token_strs", kBool}},
                                     Json::array())},
          {"DetokenizeRequest",
           Object({{"tokens", ArrayOf(Integer(0, kInt))}}, Json::array({"tokens"}))},
          {"Answer", {{"type", "object"}}}};
}

Json Content(const char* type, Json schema) {
  return {{"content", {{type, {{"schema", std::move(schema)}}}}}};
}

// An operation with its answers; every error is an Error.
Json Operation(const char* summary, Json good, const char* request = nullptr) {
  good["description"] = "OK";
  Json error = Content("application/json", Ref("Error"));
  error["description"] = "Error";
  Json out = {{"summary", summary},
              {"responses", {{"200", std::move(good)}, {"default", std::move(error)}}}};
  if (request) {
    out["requestBody"] = Content("application/json", Ref(request));
    out["requestBody"]["required"] = true;
  }
  return out;
}

Json Document(const App& app) {
  const Json json = Content("application/json", Ref("Answer"));
  Json streamed = json;
  streamed["content"]["text/event-stream"] = {{"schema", kString}};
  Json abort = Operation("End a running request, by its id or X-Request-Id, within a step", json);
  abort["parameters"] =
      Json::array({{{"name", "id"}, {"in", "path"}, {"required", true}, {"schema", kString}}});
  Json paths = {
      {"/v1/chat/completions", {{"post", Operation("Continue a chat", streamed, "ChatRequest")}}},
      {"/v1/completions", {{"post", Operation("Continue a text", streamed, "CompletionRequest")}}},
      {"/v1/chat/completions/{id}", {{"delete", abort}}},
      {"/v1/completions/{id}", {{"delete", abort}}},
      {"/v1/models", {{"get", Operation("Models that are served", json)}}},
      {"/tokenize", {{"post", Operation("Text or chat to token ids", json, "TokenizeRequest")}}},
      {"/detokenize", {{"post", Operation("Token ids to text", json, "DetokenizeRequest")}}},
      {"/health", {{"get", Operation("200 once requests are answered", json)}}},
      {"/live", {{"get", Operation("200 while the process runs", json)}}},
      {"/version", {{"get", Operation("Version", json)}}},
      {"/metrics", {{"get", Operation("Prometheus metrics", Content("text/plain", kString))}}},
      {"/openapi.json", {{"get", Operation("This document", json)}}},
  };
  Json out = {{"openapi", "3.1.0"},
              {"info", {{"title", "lserve"}, {"version", LSERVE_VERSION}}},
              {"paths", std::move(paths)},
              {"components", {{"schemas", Schemas(app.options.request)}}}};
  if (!app.options.api_keys.empty()) {
    out["components"]["securitySchemes"] = {{"key", {{"type", "http"}, {"scheme", "bearer"}}}};
    out["security"] = Json::array({{{"key", Json::array()}}});
  }
  return out;
}

}  // namespace

HttpResponse GetOpenApi(const App& app) { return {200, Dump(Document(app))}; }

}  // namespace lserve
