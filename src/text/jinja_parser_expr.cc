#include <algorithm>

#include "text/jinja_parser.h"

namespace lserve::jinja {
namespace {

std::string Describe(const Token& t) {
  switch (t.type) {
    case Tok::kData:
      return "text";
    case Tok::kVarBegin:
      return "'{{'";
    case Tok::kVarEnd:
      return "'}}'";
    case Tok::kBlockBegin:
      return "'{%'";
    case Tok::kBlockEnd:
      return "'%}'";
    case Tok::kEof:
      return "the end of the template";
    case Tok::kString:
      return "a string";
    default:
      return "'" + t.text.substr(0, 60) + "'";
  }
}

struct OpName {
  const char* text;
  Op op;
};

// The operator of `names` that stands at `t`, or null.
template <size_t N>
const OpName* FindOp(const Token& t, const OpName (&names)[N]) {
  if (t.type != Tok::kOp) return nullptr;
  for (const OpName& n : names)
    if (t.text == n.text) return &n;
  return nullptr;
}

// Links of one chain of attributes, subscripts, calls and filters.
constexpr int kMaxChain = 64;

constexpr OpName kCompareOps[] = {{"==", Op::kEq}, {"!=", Op::kNe}, {"<", Op::kLt},
                                  {"<=", Op::kLe}, {">", Op::kGt},  {">=", Op::kGe}};
constexpr OpName kSumOps[] = {{"+", Op::kAdd}, {"-", Op::kSub}};
constexpr OpName kProductOps[] = {
    {"*", Op::kMul}, {"/", Op::kDiv}, {"//", Op::kFloorDiv}, {"%", Op::kMod}};
constexpr OpName kPowerOps[] = {{"**", Op::kPow}};

}  // namespace

ExprParser::Nest::Nest(ExprParser* parser) : parser_(parser) {
  if (++parser_->nesting_ > parser_->nesting_limit_) {
    --parser_->nesting_;
    throw TemplateError{Code::kResourceExhausted,
                        fmt::format("more than {} levels of nesting", parser_->nesting_limit_),
                        parser_->Current().line};
  }
}

Token ExprParser::Next() {
  Token t = tokens_[pos_];
  if (t.type != Tok::kEof) ++pos_;
  return t;
}

bool ExprParser::SkipName(std::string_view name) {
  if (!Current().IsName(name)) return false;
  ++pos_;
  return true;
}

bool ExprParser::SkipOp(std::string_view op) {
  if (!Current().IsOp(op)) return false;
  ++pos_;
  return true;
}

void ExprParser::ExpectOp(std::string_view op) {
  if (!SkipOp(op)) FailHere(fmt::format("expected '{}', got {}", op, Describe(Current())));
}

void ExprParser::Expect(Tok type) {
  if (Current().type != type)
    FailHere(fmt::format("expected {}, got {}", Describe({type, "", 0}), Describe(Current())));
  ++pos_;
}

std::string ExprParser::ExpectName() {
  if (Current().type != Tok::kName) FailHere("expected a name, got " + Describe(Current()));
  return Next().text;
}

void ExprParser::FailHere(const std::string& message) const {
  throw TemplateError{Code::kInvalidArgument, message, Current().line};
}

void ExprParser::FailUnexpected() const { FailHere("unexpected " + Describe(Current())); }

bool ExprParser::IsTupleEnd(bool before_in) const {
  const Token& t = Current();
  return t.type == Tok::kVarEnd || t.type == Tok::kBlockEnd || t.IsOp(")") ||
         (before_in && t.IsName("in"));
}

ExprPtr ExprParser::Make(ExprKind kind, int line, std::vector<ExprPtr> args) {
  auto e = std::make_unique<Expr>();
  e->kind = kind;
  e->line = line;
  e->args = std::move(args);
  return e;
}

static std::vector<ExprPtr> List(ExprPtr a, ExprPtr b = nullptr, ExprPtr c = nullptr) {
  std::vector<ExprPtr> list;
  list.push_back(std::move(a));
  if (b) list.push_back(std::move(b));
  if (c) list.push_back(std::move(c));
  return list;
}

ExprPtr ExprParser::ParseExpression(bool with_cond) {
  Nest nest(this);
  if (!with_cond) return ParseOr();
  const int line = Current().line;
  ExprPtr then = ParseOr();
  int chain = 0;
  while (SkipName("if")) {
    CheckChain(&chain);
    ExprPtr test = ParseOr();
    ExprPtr otherwise = SkipName("else") ? ParseExpression() : nullptr;
    then =
        Make(ExprKind::kCond, line, List(std::move(test), std::move(then), std::move(otherwise)));
  }
  return then;
}

ExprPtr ExprParser::ParseOr() {
  const int line = Current().line;
  ExprPtr first = ParseAnd();
  if (!Current().IsName("or")) return first;
  ExprPtr node = Make(ExprKind::kOr, line, List(std::move(first)));
  while (SkipName("or")) node->args.push_back(ParseAnd());
  return node;
}

ExprPtr ExprParser::ParseAnd() {
  const int line = Current().line;
  ExprPtr first = ParseNot();
  if (!Current().IsName("and")) return first;
  ExprPtr node = Make(ExprKind::kAnd, line, List(std::move(first)));
  while (SkipName("and")) node->args.push_back(ParseNot());
  return node;
}

ExprPtr ExprParser::ParseNot() {
  const int line = Current().line;
  if (!SkipName("not")) return ParseCompare();
  Nest nest(this);
  return Make(ExprKind::kNot, line, List(ParseNot()));
}

ExprPtr ExprParser::ParseCompare() {
  const int line = Current().line;
  ExprPtr node = ParseSum();
  bool chained = false;
  while (true) {
    Op op;
    if (const OpName* found = FindOp(Current(), kCompareOps)) {
      op = found->op;
      ++pos_;
    } else if (SkipName("in")) {
      op = Op::kIn;
    } else if (Current().IsName("not") && Look().IsName("in")) {
      pos_ += 2;
      op = Op::kNotIn;
    } else {
      return node;
    }
    if (!chained) node = Make(ExprKind::kCompare, line, List(std::move(node)));
    chained = true;
    node->ops.push_back(op);
    node->args.push_back(ParseSum());
  }
}

ExprPtr ExprParser::ParseSum() {
  const int line = Current().line;
  ExprPtr node = ParseConcat();
  bool chained = false;
  while (const OpName* found = FindOp(Current(), kSumOps)) {
    ++pos_;
    if (!chained) node = Make(ExprKind::kBinary, line, List(std::move(node)));
    chained = true;
    node->ops.push_back(found->op);
    node->args.push_back(ParseConcat());
  }
  return node;
}

ExprPtr ExprParser::ParseConcat() {
  const int line = Current().line;
  ExprPtr node = ParseProduct();
  if (!Current().IsOp("~")) return node;
  node = Make(ExprKind::kConcat, line, List(std::move(node)));
  while (SkipOp("~")) node->args.push_back(ParseProduct());
  return node;
}

ExprPtr ExprParser::ParseProduct() {
  const int line = Current().line;
  ExprPtr node = ParsePower();
  bool chained = false;
  while (const OpName* found = FindOp(Current(), kProductOps)) {
    ++pos_;
    if (!chained) node = Make(ExprKind::kBinary, line, List(std::move(node)));
    chained = true;
    node->ops.push_back(found->op);
    node->args.push_back(ParsePower());
  }
  return node;
}

// As in Jinja2, and unlike Python, ** goes from left to right.
ExprPtr ExprParser::ParsePower() {
  const int line = Current().line;
  ExprPtr node = ParseUnary(true);
  bool chained = false;
  while (const OpName* found = FindOp(Current(), kPowerOps)) {
    ++pos_;
    if (!chained) node = Make(ExprKind::kBinary, line, List(std::move(node)));
    chained = true;
    node->ops.push_back(found->op);
    node->args.push_back(ParseUnary(true));
  }
  return node;
}

ExprPtr ExprParser::ParseUnary(bool with_filter) {
  const int line = Current().line;
  ExprPtr node;
  if (Current().IsOp("-") || Current().IsOp("+")) {
    Nest nest(this);
    const ExprKind kind = Next().text == "-" ? ExprKind::kNegate : ExprKind::kPlus;
    node = Make(kind, line, List(ParseUnary(false)));
  } else {
    node = ParsePrimary();
  }
  node = ParsePostfix(std::move(node));
  return with_filter ? ParseFilterExpr(std::move(node)) : std::move(node);
}

ExprPtr ExprParser::ParsePrimary() {
  const int line = Current().line;
  auto constant = [line](Value v) {
    ExprPtr e = Make(ExprKind::kConst, line);
    e->constant = std::move(v);
    return e;
  };
  switch (Current().type) {
    case Tok::kName: {
      const std::string name = Next().text;
      if (name == "true" || name == "True") return constant(Value::Bool(true));
      if (name == "false" || name == "False") return constant(Value::Bool(false));
      if (name == "none" || name == "None") return constant(Value::None());
      for (MacroDef* macro : open_macros_) {
        macro->uses_caller |= name == "caller";
        macro->uses_kwargs |= name == "kwargs";
        macro->uses_varargs |= name == "varargs";
      }
      ExprPtr e = Make(ExprKind::kName, line);
      e->name = name;
      return e;
    }
    case Tok::kString: {
      std::string text = Next().text;
      while (Current().type == Tok::kString) text += Next().text;
      return constant(Value::String(std::move(text)));
    }
    case Tok::kInt:
      return constant(Value::Int(std::strtoll(Next().text.c_str(), nullptr, 10)));
    case Tok::kFloat:
      return constant(Value::Float(std::strtod(Next().text.c_str(), nullptr)));
    default:
      break;
  }
  if (SkipOp("(")) {
    ExprPtr e = ParseTuple(true, true);
    ExpectOp(")");
    return e;
  }
  if (Current().IsOp("[") || Current().IsOp("{")) return ParseListOrDict();
  FailUnexpected();
}

ExprPtr ExprParser::ParseListOrDict() {
  Nest nest(this);
  const int line = Current().line;
  const bool dict = Next().text == "{";
  const char* close = dict ? "}" : "]";
  ExprPtr node = Make(dict ? ExprKind::kDict : ExprKind::kList, line);
  while (!Current().IsOp(close)) {
    if (!node->args.empty()) ExpectOp(",");
    if (Current().IsOp(close)) break;
    node->args.push_back(ParseExpression());
    if (!dict) continue;
    ExpectOp(":");
    node->args.push_back(ParseExpression());
  }
  ExpectOp(close);
  return node;
}

ExprPtr ExprParser::ParseTuple(bool with_cond, bool in_parentheses) {
  const int line = Current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) ExpectOp(",");
    if (IsTupleEnd(false)) break;
    items.push_back(ParseExpression(with_cond));
    if (!Current().IsOp(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (!is_tuple && !in_parentheses) FailHere("expected an expression, got " + Describe(Current()));
  return Make(ExprKind::kTuple, line, std::move(items));
}

void ExprParser::CheckChain(int* length) const {
  if (++*length > kMaxChain)
    throw TemplateError{Code::kResourceExhausted,
                        fmt::format("a chain of more than {} operations", kMaxChain),
                        Current().line};
}

ExprPtr ExprParser::ParsePostfix(ExprPtr node) {
  int chain = 0;
  while (true) {
    const int line = Current().line;
    if (Current().IsOp(".") || Current().IsOp("[")) {
      node = ParseSubscript(std::move(node));
    } else if (Current().IsOp("(")) {
      node = Make(ExprKind::kCall, line, List(std::move(node)));
      ParseCallArgs(node.get());
    } else {
      return node;
    }
    CheckChain(&chain);
  }
}

ExprPtr ExprParser::ParseFilterExpr(ExprPtr node) {
  int chain = 0;
  while (true) {
    const int line = Current().line;
    if (Current().IsOp("|")) {
      node = ParseFilters(std::move(node), false);
    } else if (Current().IsName("is")) {
      node = ParseTest(std::move(node));
    } else if (Current().IsOp("(")) {
      node = Make(ExprKind::kCall, line, List(std::move(node)));
      ParseCallArgs(node.get());
    } else {
      return node;
    }
    CheckChain(&chain);
  }
}

ExprPtr ExprParser::ParseFilters(ExprPtr operand, bool inline_first) {
  int chain = 0;
  while (inline_first || Current().IsOp("|")) {
    if (!inline_first) ++pos_;
    inline_first = false;
    const int line = Current().line;
    std::string name = ExpectName();
    while (SkipOp(".")) name += "." + ExpectName();
    std::vector<ExprPtr> args;
    args.push_back(std::move(operand));
    operand = Make(ExprKind::kFilter, line, std::move(args));
    operand->name = std::move(name);
    if (Current().IsOp("(")) ParseCallArgs(operand.get());
    CheckChain(&chain);
  }
  return operand;
}

ExprPtr ExprParser::ParseSubscript(ExprPtr node) {
  const int line = Current().line;
  if (Next().text == ".") {
    const Token attribute = Next();
    if (attribute.type == Tok::kName) {
      node = Make(ExprKind::kAttr, line, List(std::move(node)));
      node->name = attribute.text;
      return node;
    }
    if (attribute.type != Tok::kInt) FailHere("expected a name or a number after '.'");
    ExprPtr index = Make(ExprKind::kConst, line);
    index->constant = Value::Int(std::strtoll(attribute.text.c_str(), nullptr, 10));
    return Make(ExprKind::kItem, line, List(std::move(node), std::move(index)));
  }
  Nest nest(this);
  std::vector<ExprPtr> parts(4);  // object, start, stop, step
  parts[0] = std::move(node);
  size_t colons = 0;
  size_t count = 0;
  while (!Current().IsOp("]")) {
    if (SkipOp(":")) {
      if (++colons > 2) FailUnexpected();
    } else {
      if (parts[colons + 1]) break;
      parts[colons + 1] = ParseExpression();
      ++count;
    }
  }
  if (Current().IsOp(",")) FailHere("several subscripts in one pair of brackets");
  ExpectOp("]");
  if (colons > 0) return Make(ExprKind::kSlice, line, std::move(parts));
  if (count == 0) FailHere("expected an expression between brackets");
  return Make(ExprKind::kItem, line, List(std::move(parts[0]), std::move(parts[1])));
}

void ExprParser::ParseCallArgs(Expr* call) {
  Nest nest(this);
  ExpectOp("(");
  bool first = true;
  while (!Current().IsOp(")")) {
    if (!first) ExpectOp(",");
    if (!first && Current().IsOp(")")) break;
    first = false;
    if (SkipOp("*")) {
      if (call->star || call->star_star) FailHere("invalid arguments of a call");
      call->star = ParseExpression();
    } else if (SkipOp("**")) {
      if (call->star_star) FailHere("invalid arguments of a call");
      call->star_star = ParseExpression();
    } else if (Current().type == Tok::kName && Look().IsOp("=")) {
      if (call->star_star) FailHere("invalid arguments of a call");
      std::string name = Next().text;
      ++pos_;
      for (const auto& other : call->kwargs)
        if (other.first == name) FailHere("argument '" + name + "' is given twice");
      ExprPtr value = ParseExpression();
      call->kwargs.emplace_back(std::move(name), std::move(value));
    } else {
      if (call->star || call->star_star || !call->kwargs.empty())
        FailHere("invalid arguments of a call");
      call->args.push_back(ParseExpression());
    }
  }
  ExpectOp(")");
}

ExprPtr ExprParser::ParseTest(ExprPtr node) {
  const int line = Next().line;
  const bool negated = SkipName("not");
  std::string name = ExpectName();
  while (SkipOp(".")) name += "." + ExpectName();
  node = Make(ExprKind::kTest, line, List(std::move(node)));
  node->name = std::move(name);
  const Token& t = Current();
  if (t.IsOp("(")) {
    ParseCallArgs(node.get());
  } else if (t.type == Tok::kString || t.type == Tok::kInt || t.type == Tok::kFloat ||
             t.IsOp("[") || t.IsOp("{") ||
             (t.type == Tok::kName && !t.IsName("else") && !t.IsName("or") && !t.IsName("and"))) {
    if (t.IsName("is")) FailHere("tests cannot be chained");
    node->args.push_back(ParsePostfix(ParsePrimary()));
  }
  return negated ? Make(ExprKind::kNot, line, List(std::move(node))) : std::move(node);
}

}  // namespace lserve::jinja
