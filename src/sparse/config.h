// What can be set about sparsity, with the paper's names and defaults (arXiv 2502.14866, section 4
// and its scripts).
#pragma once

#include <algorithm>
#include <string>

#include "plan/key_stats.h"
#include "plan/page_score.h"
#include "plan/tile.h"

namespace lserve {

enum class AttentionMode { kDense, kLserve };

struct SparsityConfig {
  AttentionMode mode = AttentionMode::kLserve;  // what requests get that do not ask
  double static_sparsity = 0.5;  // share of KV heads that stream, when a head pattern is known
  int prefill_sink = 128;        // tokens, streaming heads while the prompt is processed
  int prefill_local = 8192;      // tokens, own token included
  int decode_sink = 128;         // tokens, streaming heads while decoding; multiples of 64
  int decode_local = 256;
  // Tokens that a retrieval head reads at decode, sinks and local pages included; multiple of 64.
  int budget = 4096;
  int selector_sink_pages = 1;   // pages at the start that a retrieval head always reads
  int selector_local_pages = 4;  // newest pages (the open one included) that it always reads
  PageScore page_score = PageScore::kKeys;
  int logical_page = 16;   // tokens a set of key statistics covers: 16, 32 or 64
  int reuse_interval = 2;  // decode steps that share one selection (C); docs/accuracy.md: why 2
  // Keys at a page's end that speak for the next page too: a head that reads on gets there before
  // the next selection (SelectArgs.reach).
  int reach() const { return std::min(reuse_interval - 1, kBlockTokens); }
  // What is kept beside keys for ranking pages: nothing where the keys themselves are looked at.
  KeyStats statistics(int dim) const {
    return {page_score == PageScore::kKeys ? 0 : logical_page, dim,
            page_score == PageScore::kBounds8 ? 8 : 16};
  }
  int dense_below = 12288;  // a shorter context is read whole by retrieval heads (the crossover)
  // One list a KV head; false: one a query head, as in the paper.
  bool shared_lists = true;
  // One layer-step of decoding in this many is audited (sparse/audit.h); 0: none.
  int audit_interval = 0;
};

}  // namespace lserve
