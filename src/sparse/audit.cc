#include "sparse/audit.h"

#include <algorithm>
#include <cmath>

namespace lserve {
namespace {

uint64_t Mix(uint64_t x) {  // splitmix64's finaliser
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

void MissedMass::AddHead(float lse_read, float lse_all) {
  // Both are rounded: nothing missed may come out below zero.
  const double missed = std::max(0.0, -std::expm1(double{lse_read} - double{lse_all}));
  ++heads;
  sum += missed;
  max = std::max(max, missed);
}

void MissedMass::Add(const MissedMass& other) {
  layer_steps += other.layer_steps;
  heads += other.heads;
  sum += other.sum;
  max = std::max(max, other.max);
}

bool IsAudited(int interval, int layers, int layer, int token) {
  if (interval <= 0 || token < 1) return false;
  const int64_t index = (int64_t{token} - 1) * layers + layer, run = index / interval;
  const uint64_t draw = Mix(static_cast<uint64_t>(run)) % static_cast<uint64_t>(interval);
  return static_cast<uint64_t>(index % interval) == draw;
}

}  // namespace lserve
