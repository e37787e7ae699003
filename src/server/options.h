// What can be set about the HTTP server. Every limit is here, with its default; errors that a
// client gets name the limit. Plain data, copied at Server::Start.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "text/chat_template.h"

namespace lserve {

// Limits on one JSON text.
struct JsonLimits {
  int depth = 64;             // nested arrays and objects
  size_t object_keys = 4096;  // keys of one object
  size_t values = 8'000'000;  // strings, numbers, arrays, ... altogether
};

// Limits on what one request may ask for.
struct RequestLimits {
  JsonLimits json;
  int n = 16;               // choices a prompt
  size_t prompts = 128;     // prompts a completion request
  size_t messages = 16384;  // messages of a chat
  int prompt_tokens = 0;    // tokens of a prompt; 0: whatever the context holds
  size_t stop_strings = 16;
  size_t stop_bytes = 256;  // of one stop string
  size_t stop_token_ids = 1024;
  size_t logit_bias = 1024;  // entries
  size_t cache_salt_bytes = 256;
  int top_logprobs = 20;
  int64_t prompt_logprobs = 262144;  // prompt tokens x (alternatives + 1) a request
};

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;  // 0: any free one, see Server::port()
  int network_threads = 1;
  int worker_threads = 2;  // JSON, chat templates, tokenising

  std::string tls_cert, tls_key;  // PEM files; both empty: plain HTTP

  // Names the model answers to; the first is the one /v1/models and answers show. Empty: the
  // engine's name for it.
  std::vector<std::string> model_names;
  std::string
      chat_template;  // text of a template that replaces the model's; empty: the model's own
  TemplateLimits template_limits;
  RequestLimits request;

  // Keys of which every request but /health and /live must bear one; empty: no key is asked for.
  std::vector<std::string> api_keys;
  // Origins that browsers may call from ("*": any); empty: CORS is off.
  std::vector<std::string> cors_origins;

  size_t header_bytes = 16 << 10;  // request line and headers
  size_t header_count = 100;
  size_t body_bytes = 32 << 20;
  // At once. One more takes the place of the one that has waited for its client for longest; where
  // all are being answered it is told 503.
  int connections = 512;
  int64_t queue_tokens = 8'000'000;  // prompt tokens of requests that have not begun to answer
  size_t stream_buffer =
      1 << 20;  // bytes that wait for a client that does not read, then its request is aborted
  std::chrono::milliseconds header_time{
      30'000};  // from a request's first byte to the end of its headers
  std::chrono::milliseconds body_time{120'000};       // to the end of its body
  std::chrono::milliseconds idle_time{75'000};        // an open connection without a request
  std::chrono::milliseconds request_time{3'600'000};  // to the end of the answer; 0: no limit
  std::chrono::milliseconds write_time{
      60'000};  // a client that accepts no byte for so long is dropped
  std::chrono::milliseconds keepalive_time{
      5'000};                   // between SSE comments on a stream with nothing to say
  int retry_after_seconds = 1;  // in answers 429 and 503
  bool log_requests = true;
};

}  // namespace lserve
