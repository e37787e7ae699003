// What a backend that expands decode plans on its own device needs to know about one decoding
// sequence of a step: the planner's decision in numbers, the same for every layer. Plain data.
#pragma once

#include <cstdint>

namespace lserve {

// Rows with slot < 0 are padding and do nothing.
struct DecodeRow {
  int32_t slot;                  // row of the page tables and of the lists
  int32_t row;                   // first row of q
  int32_t q_len;                 // query tokens, usually 1
  int32_t pos;                   // of its first token
  int32_t sink_len, window_len;  // of streaming heads, tokens; window_len kNoWindow: dense
  int32_t selected;  // 1: retrieval heads read sink_blocks + list + [local_begin, newest]; 0: all
  int32_t due;       // 1: choose anew this step, from [sink_blocks, local_begin)
  int32_t sink_blocks, local_begin;  // blocks
  int32_t k;                         // blocks to choose
};

}  // namespace lserve
