// What one rendering may use, and the one way in which template code fails. The budget of the
// rendering that runs on a thread is reached through that thread (BudgetScope), so that every value
// made on the way is counted. TemplateError is thrown only inside the jinja_* files and caught in
// chat_template.cc.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "core/status.h"
#include "text/chat_template.h"

namespace lserve::jinja {

struct TemplateError {
  Code code;
  std::string message;
  int line = 0;           // 0: to be filled in by the evaluator
  bool verbatim = false;  // raise_exception: the message is shown as it is
};

template <typename... Args>
[[noreturn]] void Fail(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError{Code::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...)};
}
template <typename... Args>
[[noreturn]] void FailUnsupported(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError{Code::kUnsupported, fmt::format(format, std::forward<Args>(args)...)};
}
template <typename... Args>
[[noreturn]] void FailLimit(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError{Code::kResourceExhausted, fmt::format(format, std::forward<Args>(args)...)};
}

struct Budget {
  explicit Budget(const TemplateLimits& template_limits) : limits(template_limits) {}
  TemplateLimits limits;
  int64_t steps = 0;
  int64_t work = 0;
  size_t live_bytes = 0;
  int depth = 0;
};

// Makes `budget` the one of this thread for as long as the scope lives.
class BudgetScope {
 public:
  explicit BudgetScope(Budget* budget);
  ~BudgetScope();
  BudgetScope(const BudgetScope&) = delete;
  BudgetScope& operator=(const BudgetScope&) = delete;

 private:
  Budget* previous_;
};

// The thread's budget, or nullptr while a template is parsed.
Budget* CurrentBudget();

void Step();                   // one statement or expression
void Work(size_t units);       // bytes or elements touched
void CheckSize(size_t bytes);  // before a value of this size is built
// Multiplies, and fails where the product is over the limit on a single value.
size_t CheckedProduct(size_t count, size_t bytes);

// The memory of one value, counted while it lives.
class Charge {
 public:
  explicit Charge(size_t bytes);
  ~Charge();
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

 private:
  Budget* budget_;
  size_t bytes_;
};

// One level of evaluation inside another.
class DepthGuard {
 public:
  DepthGuard();
  ~DepthGuard();
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;
};

// A string that grows under the limit on a single value.
class Text {
 public:
  void Append(std::string_view piece) {
    CheckSize(bytes_.size() + piece.size());
    Work(piece.size());
    bytes_.append(piece);
  }
  void Append(char c) { Append(std::string_view(&c, 1)); }
  void Fill(size_t count, std::string_view piece);
  size_t size() const { return bytes_.size(); }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

}  // namespace lserve::jinja
