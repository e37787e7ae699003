#include "text/jinja_eval.h"

#include "text/jinja_print.h"

namespace lserve::jinja {

Evaluator::Evaluator(const Value& context, std::time_t now)
    : context_(context), now_(now), root_(std::make_shared<Scope>()) {}

Evaluator::~Evaluator() {
  for (auto& macro : macros_) macro->scope.reset();
  for (auto& ns : namespaces_) {
    ns->vars.clear();
    ns->index.clear();
  }
  for (auto& loop : loops_) loop->last_changed = Value();
}

std::string Evaluator::Render(const Body& body) {
  Text out;
  try {
    RunBody(body, root_, &out);
  } catch (TemplateError& e) {
    if (e.line == 0) e.line = line_;
    throw;
  }
  return out.Take();
}

Evaluator::Flow Evaluator::RunBody(const Body& body, const ScopePtr& scope, Text* out) {
  DepthGuard depth;
  for (const auto& s : body) {
    const Flow flow = Run(*s, scope, out);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::Run(const Stmt& s, const ScopePtr& scope, Text* out) {
  Step();
  line_ = s.line;
  switch (s.kind) {
    case StmtKind::kText:
      out->Append(s.text);
      break;
    case StmtKind::kOutput:
      for (const ExprPtr& e : s.exprs) out->Append(ToString(Eval(*e, scope)));
      break;
    case StmtKind::kIf:
      return RunIf(s, scope, out);
    case StmtKind::kFor:
      return RunFor(s, scope, out);
    case StmtKind::kSet:
      Assign(s.targets[0], Eval(*s.exprs[0], scope), scope, scope);
      break;
    case StmtKind::kSetBlock:
      RunSetBlock(s, scope);
      break;
    case StmtKind::kMacro:
      scope->vars[s.macro->name] = NewMacro(*s.macro, scope);
      break;
    case StmtKind::kCallBlock:
      RunCallBlock(s, scope, out);
      break;
    case StmtKind::kFilterBlock: {
      const Value text = Value::String(Capture(s.bodies[0], scope));
      out->Append(ToString(ApplyFilters(*s.exprs[0], text, scope)));
      break;
    }
    case StmtKind::kWith:
      return RunWith(s, scope, out);
    case StmtKind::kScope:
      RunBody(s.bodies[0], NewScope(scope), out);
      break;
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::RunIf(const Stmt& s, const ScopePtr& scope, Text* out) {
  for (size_t i = 0; i < s.exprs.size(); ++i)
    if (Truth(Eval(*s.exprs[i], scope))) return RunBody(s.bodies[i], scope, out);
  if (s.bodies.size() > s.exprs.size()) return RunBody(s.bodies.back(), scope, out);
  return Flow::kNext;
}

Evaluator::Flow Evaluator::RunFor(const Stmt& s, const ScopePtr& scope, Text* out) {
  const Value iterable = Eval(*s.exprs[0], scope);
  auto loop = std::make_shared<LoopObject>();
  loop->source = Iterate(iterable);
  Charge items(loop->source.size() * sizeof(Value));
  if (s.exprs.size() > 1) {
    loop->filter = [&](const Value& item) {
      ScopePtr inner = NewScope(scope);
      Assign(s.targets[0], item, scope, inner);
      return Truth(Eval(*s.exprs[1], inner));
    };
  }
  const Value loop_value(Kind::kLoop, loop);
  while (loop->Advance()) {
    Step();
    ScopePtr inner = NewScope(scope);
    inner->vars["loop"] = loop_value;
    Assign(s.targets[0], loop->current, scope, inner);
    if (RunBody(s.bodies[0], inner, out) == Flow::kBreak) break;
  }
  // The loop may be remembered in a namespace; its filter must not outlive this frame.
  loop->filter = nullptr;
  if (loop.use_count() > 2) loops_.push_back(loop);
  // As in Jinja2, `else` runs where the body never ran.
  if (loop->index0 < 0 && s.bodies.size() > 1) return RunBody(s.bodies[1], NewScope(scope), out);
  return Flow::kNext;
}

Evaluator::Flow Evaluator::RunWith(const Stmt& s, const ScopePtr& scope, Text* out) {
  ScopePtr inner = NewScope(scope);
  for (size_t i = 0; i < s.targets.size(); ++i)
    Assign(s.targets[i], Eval(*s.exprs[i], scope), scope, inner);
  return RunBody(s.bodies[0], inner, out);
}

void Evaluator::RunSetBlock(const Stmt& s, const ScopePtr& scope) {
  Value text = Value::String(Capture(s.bodies[0], scope));
  if (s.exprs[0]) text = ApplyFilters(*s.exprs[0], text, scope);
  Assign(s.targets[0], text, scope, scope);
}

void Evaluator::RunCallBlock(const Stmt& s, const ScopePtr& scope, Text* out) {
  const Expr& call = *s.exprs[0];
  const Value callee = Eval(*call.args[0], scope);
  Args args = EvalArgs(call, scope);
  args.kw.emplace_back("caller", NewMacro(*s.macro, scope));
  out->Append(ToString(Call(callee, args)));
}

std::string Evaluator::Capture(const Body& body, const ScopePtr& scope) {
  Text text;
  RunBody(body, NewScope(scope), &text);
  return text.Take();
}

ScopePtr Evaluator::NewScope(ScopePtr parent) const {
  auto scope = std::make_shared<Scope>();
  scope->parent = std::move(parent);
  return scope;
}

Value Evaluator::NewMacro(const MacroDef& def, const ScopePtr& scope) {
  auto macro = std::make_shared<MacroObject>();
  macro->name = def.name;
  macro->def = &def;
  macro->scope = scope;
  macros_.push_back(macro);
  return Value(Kind::kMacro, std::move(macro));
}

// Reads namespaces from `scope`, puts names into `store`.
void Evaluator::Assign(const Target& target, const Value& value, const ScopePtr& scope,
                       const ScopePtr& store) {
  if (target.is_tuple) {
    const Values items = Iterate(value);
    if (items.size() != target.items.size())
      Fail("{} values to unpack where {} are expected", items.size(), target.items.size());
    for (size_t i = 0; i < items.size(); ++i) Assign(target.items[i], items[i], scope, store);
    return;
  }
  if (target.attribute.empty()) {
    store->vars[target.name] = value;
    return;
  }
  const Value ns = Lookup(target.name, scope);
  if (!ns.Is(Kind::kNamespace))
    Fail("cannot assign an attribute of '{}': not a namespace", target.name);
  ns.as<NamespaceObject>().Set(target.attribute, value);
}

}  // namespace lserve::jinja
