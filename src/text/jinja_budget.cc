#include "text/jinja_budget.h"

namespace lserve::jinja {
namespace {
thread_local Budget* current_budget = nullptr;
}  // namespace

BudgetScope::BudgetScope(Budget* budget) : previous_(current_budget) { current_budget = budget; }
BudgetScope::~BudgetScope() { current_budget = previous_; }

Budget* CurrentBudget() { return current_budget; }

void Step() {
  Budget* b = current_budget;
  if (b && ++b->steps > b->limits.steps)
    FailLimit("the template needs more than {} steps", b->limits.steps);
}

void Work(size_t units) {
  Budget* b = current_budget;
  if (!b) return;
  b->work += static_cast<int64_t>(units);
  if (b->work > b->limits.work)
    FailLimit("the template's operations touch more than {} bytes and elements", b->limits.work);
}

void CheckSize(size_t bytes) {
  Budget* b = current_budget;
  if (b && bytes > b->limits.output_bytes)
    FailLimit("the template makes a value of more than {} bytes", b->limits.output_bytes);
}

size_t CheckedProduct(size_t count, size_t bytes) {
  size_t product = 0;
  if (__builtin_mul_overflow(count, bytes, &product)) product = SIZE_MAX;
  CheckSize(product);
  return product;
}

Charge::Charge(size_t bytes) : budget_(current_budget), bytes_(bytes) {
  if (!budget_) return;
  CheckSize(bytes);
  if (budget_->live_bytes + bytes > budget_->limits.memory_bytes)
    FailLimit("the template's values need more than {} bytes", budget_->limits.memory_bytes);
  budget_->live_bytes += bytes;
}

Charge::~Charge() {
  if (budget_) budget_->live_bytes -= bytes_;
}

DepthGuard::DepthGuard() {
  Budget* b = current_budget;
  if (b && b->depth >= b->limits.depth)
    FailLimit("the template nests more than {} evaluations", b->limits.depth);
  if (b) ++b->depth;
}

DepthGuard::~DepthGuard() {
  if (current_budget) --current_budget->depth;
}

void Text::Fill(size_t count, std::string_view piece) {
  const size_t bytes = CheckedProduct(count, piece.size());
  CheckSize(bytes_.size() + bytes);
  Work(bytes);
  bytes_.reserve(bytes_.size() + bytes);
  for (size_t i = 0; i < count && !piece.empty(); ++i) bytes_.append(piece);
}

}  // namespace lserve::jinja
