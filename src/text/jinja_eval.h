// Walks a syntax tree and makes text. One Evaluator renders once, on one thread.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_value.h"

namespace lserve::jinja {

struct Scope {
  std::unordered_map<std::string_view, Value> vars;  // names live in the tree or the context
  std::shared_ptr<Scope> parent;
};
using ScopePtr = std::shared_ptr<Scope>;

struct MacroObject : Object {
  Charge charge{512};
  std::string name;
  const MacroDef* def = nullptr;
  ScopePtr scope;  // where it was defined
};

class Evaluator {
 public:
  // REQUIRES: a BudgetScope is open and outlives the evaluator.
  Evaluator(const Value& context, std::time_t now);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  // Fails by TemplateError with its line set.
  std::string Render(const Body& body);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // Statements (jinja_eval.cc).
  Flow RunBody(const Body& body, const ScopePtr& scope, Text* out);
  Flow Run(const Stmt& s, const ScopePtr& scope, Text* out);
  Flow RunIf(const Stmt& s, const ScopePtr& scope, Text* out);
  Flow RunFor(const Stmt& s, const ScopePtr& scope, Text* out);
  Flow RunWith(const Stmt& s, const ScopePtr& scope, Text* out);
  void RunSetBlock(const Stmt& s, const ScopePtr& scope);
  void RunCallBlock(const Stmt& s, const ScopePtr& scope, Text* out);
  // The text of a body in a scope of its own.
  std::string Capture(const Body& body, const ScopePtr& scope);
  void Assign(const Target& target, const Value& value, const ScopePtr& scope,
              const ScopePtr& store);
  ScopePtr NewScope(ScopePtr parent) const;
  Value NewMacro(const MacroDef& def, const ScopePtr& scope);

  // Expressions (jinja_eval_expr.cc).
  Value Eval(const Expr& e, const ScopePtr& scope);
  Value EvalNode(const Expr& e, const ScopePtr& scope);
  Value EvalBinary(const Expr& e, const ScopePtr& scope);
  Value EvalCompare(const Expr& e, const ScopePtr& scope);
  Value EvalSlice(const Expr& e, const ScopePtr& scope);
  Value Lookup(const std::string& name, const ScopePtr& scope);
  Values EvalItems(const Expr& e, const ScopePtr& scope);
  Args EvalArgs(const Expr& e, const ScopePtr& scope);
  Value ApplyFilters(const Expr& e, const Value& innermost, const ScopePtr& scope);
  Value Call(const Value& callee, const Args& args);
  Value CallMacro(const MacroObject& macro, const Args& args);
  Value CallGlobal(Global function, const Args& args);
  Value StrftimeNow(const Args& args);

  const Value& context_;
  std::time_t now_;
  ScopePtr root_;
  int line_ = 1;
  // Objects that may point at each other; untied at the end.
  std::vector<std::shared_ptr<MacroObject>> macros_;
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;
  std::vector<std::shared_ptr<LoopObject>> loops_;  // those that something still holds
};

}  // namespace lserve::jinja
