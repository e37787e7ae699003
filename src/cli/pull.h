// Pull: downloads a model from the Hugging Face Hub, or from anything that speaks its HTTP API,
// into the folder of models. Blocks; call it from a thread that may wait. Any number of threads may
// pull different models at once.
//
// A download that was cut off goes on where it stopped, now or at the next call. Every file is
// checked against the hub's SHA-256 (large files) or git blob id (small ones) before it gets its
// name. config.json is written last, so a folder that has one is whole.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "core/status.h"

namespace lserve {

struct PullProgress {
  std::string file;                // being downloaded
  int file_number = 0, files = 0;  // file_number of files, from 1
  int64_t done = 0, total = 0;     // bytes over all files
  double bytes_per_second = 0;     // of this call, over the network
};

struct PullOptions {
  std::string model;   // ORG/NAME or ORG/NAME@REVISION (branch, tag or commit)
  std::string file;    // a .gguf of the repository; empty: configuration, tokenizer, safetensors
  std::string folder;  // the model gets a folder of its own in this one; empty: DefaultModelFolder
  std::string endpoint;  // empty: HF_ENDPOINT, else https://huggingface.co
  std::string token;     // empty: HF_TOKEN, else none
  int attempts = 5;      // in a row without a byte of progress, before a file is given up
  std::chrono::milliseconds retry_delay{1000};  // before the second attempt; doubled each time
  std::chrono::seconds timeout{60};             // without a byte from the network
  std::function<void(const PullProgress&)> progress;  // a few times a second; empty: stderr
};

// The path of what was pulled, which `serve --model` takes: a directory, or with `file` a GGUF.
// Errors: kInvalidArgument (name, endpoint, a file name that leaves the folder), kNotFound (model,
// revision or file), kUnavailable (network, or the hub wants another token), kDataLoss (checksum),
// kResourceExhausted (disk).
Result<std::string> Pull(const PullOptions& options);

// $LSERVE_CACHE/models, else ~/.cache/lserve/models.
std::string DefaultModelFolder();

}  // namespace lserve
