// How a page is ranked for a query head when retrieval heads choose what to read.
#pragma once

namespace lserve {

enum class PageScore {
  // The largest q.k over the page's keys as they are stored. Exact, so that no page with an
  // outstanding key is missed; reads all keys of the context whenever a selection is made.
  kKeys,
  // The largest upper bound of q.k over its logical pages, from their key statistics (Quest,
  // LServe): a fraction of those bytes. Where every page holds the same kind of text the boxes of
  // all pages look alike, and outstanding keys are missed: docs/accuracy.md.
  kBounds,
  // The same from statistics in 8 bits instead of 16: half the bytes, bounds a little wider.
  kBounds8,
};

inline constexpr PageScore kPageScores[] = {PageScore::kKeys, PageScore::kBounds,
                                            PageScore::kBounds8};

inline const char* PageScoreName(PageScore score) {
  constexpr const char* kNames[] = {"keys", "bounds", "bounds8"};
  return kNames[static_cast<int>(score)];
}

}  // namespace lserve
