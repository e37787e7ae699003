// The syntax tree of a template: what the parser makes and the evaluator walks. Immutable after
// parsing. Chains of operators of one level are one node with many operands, so that the depth of
// the tree is what the parser's nesting limit says and never the length of a line.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_ops.h"
#include "text/jinja_value.h"

namespace lserve::jinja {

enum class ExprKind : uint8_t {
  kConst,
  kName,
  kList,
  kTuple,
  kDict,  // args: key, value, key, value, ...
  kCond,  // args: test, then, [else]
  kOr,
  kAnd,
  kNot,
  kNegate,
  kPlus,
  kBinary,   // args[0] ops[0] args[1] ops[1] args[2] ..., from left to right
  kCompare,  // the same, chained as Python does
  kConcat,
  kFilter,  // args[0] is filtered (null in blocks), the rest are arguments
  kTest,
  kCall,   // args[0] is called
  kAttr,   // args[0].name
  kItem,   // args[0][args[1]]
  kSlice,  // args[0][args[1]:args[2]:args[3]]; null: absent
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  ExprKind kind;
  int line;
  Value constant;
  std::string name;
  std::vector<ExprPtr> args;
  std::vector<Op> ops;
  std::vector<std::pair<std::string, ExprPtr>> kwargs;
  ExprPtr star, star_star;  // *args, **kwargs
};

// What `set` and `for` assign to: a name, namespace.attribute, or several targets.
struct Target {
  std::string name;
  std::string attribute;
  std::vector<Target> items;
  bool is_tuple = false;
  int line = 0;
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

enum class StmtKind : uint8_t {
  kText,
  kOutput,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kScope,  // {% generation %}: transformers marks the tokens inside, the text is the same
  kBreak,
  kContinue,
};

struct Param {
  std::string name;
  ExprPtr fallback;
};

struct MacroDef {
  std::string name;
  std::vector<Param> params;
  Body body;
  bool uses_caller = false, uses_kwargs = false, uses_varargs = false;
};

struct Stmt {
  StmtKind kind;
  int line;
  std::string text;
  std::vector<ExprPtr> exprs;  // kIf: one a branch; kFor: iterable, [condition]; kWith: values
  std::vector<Body> bodies;    // kIf: one a branch, then else; kFor: body, else
  std::vector<Target> targets;
  std::unique_ptr<MacroDef> macro;  // kMacro, kCallBlock
};

}  // namespace lserve::jinja
