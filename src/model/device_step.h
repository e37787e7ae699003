// Of the device model's files alone: one step's shape.
#pragma once

#include <span>
#include <vector>

#include "model/device_model.h"

namespace lserve {

inline int CeilDiv(int a, int b) { return (a + b - 1) / b; }
inline size_t Size(int64_t n) { return static_cast<size_t>(n); }

// Makes room where there is too little; contents are not kept.
template <typename T>
void Upload(Device* device, std::span<const T> data, Block* block) {
  if (block->size() < data.size_bytes()) *block = Block(device, data.size_bytes() * 3 / 2 + 256);
  device->CopyIn(block->data(), data.data(), data.size_bytes());
}

// What one step is made of, for the ops of every layer.
struct DeviceModel::Step {
  int rows = 0;         // of activations, padding included
  int decode_rows = 0;  // of `rows_`, padding included
  bool due = false;     // some sequence selects anew
  bool pure = false;    // decode rows alone: recorded as a graph
  int num_groups = 0;   // of Append; 0: every row for itself
  int logit_rows = 0;
  bool all_logits = false;  // logit row r is row r
  // A piece of a prompt; tiles and gather ranges of layer l at [l * prompts + index].
  struct Prompt {
    int slot, end;  // tokens stored after the step
  };
  int kept_prompt = -1;  // index in `prompts` of the one whose kept heads are used
  int kept_from = 0;     // block from which its kept heads are gathered
  struct Part {
    int tile_begin, tile_end, range_begin, range_end, max_range;
  };
  std::vector<Prompt> prompts;
  std::vector<Part> parts;  // [layer][prompt][head group]
  std::vector<cuda::GatherRange> ranges;
  // A layer of a decode row whose selection is audited, layers ascending: its retrieval heads over
  // everything at audit_tiles_[first_tile, + tiles), which count runs from audit_runs_[first_run].
  struct Audited {
    int layer, index;     // in the step's sequences
    int decode_row, row;  // among the decode rows, among all
    int first_tile, tiles, first_run;
  };
  std::vector<Audited> audits;
};

}  // namespace lserve
