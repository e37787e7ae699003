// Tokens to syntax tree. Fails by TemplateError with the line.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace lserve::jinja {

// REQUIRES: source is valid UTF-8.
Body ParseTemplate(const std::string& source, const TemplateLimits& limits);

// The parser's parts: tokens and expressions here, statements in jinja_parser.cc.
class ExprParser {
 public:
  ExprParser(std::vector<Token> tokens, int nesting_limit)
      : tokens_(std::move(tokens)), nesting_limit_(nesting_limit) {}

 protected:
  // One level deeper in the source.
  class Nest {
   public:
    explicit Nest(ExprParser* parser);
    ~Nest() { --parser_->nesting_; }
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

   private:
    ExprParser* parser_;
  };

  const Token& Current() const { return tokens_[pos_]; }
  const Token& Look() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  Token Next();
  bool SkipName(std::string_view name);
  bool SkipOp(std::string_view op);
  void ExpectOp(std::string_view op);
  void Expect(Tok type);
  std::string ExpectName();
  [[noreturn]] void FailHere(const std::string& message) const;
  [[noreturn]] void FailUnexpected() const;
  // Whether an expression list ends here: at the end of a tag, ")" or, in `for`, "in".
  bool IsTupleEnd(bool before_in) const;

  ExprPtr ParseExpression(bool with_cond = true);
  ExprPtr ParseTuple(bool with_cond, bool in_parentheses);
  // "| filter | filter"; `inline_first`: the first name stands without a pipe.
  ExprPtr ParseFilters(ExprPtr operand, bool inline_first);
  ExprPtr ParsePrimary();

  std::vector<MacroDef*> open_macros_;

 private:
  static ExprPtr Make(ExprKind kind, int line, std::vector<ExprPtr> args = {});
  ExprPtr ParseOr();
  ExprPtr ParseAnd();
  ExprPtr ParseNot();
  ExprPtr ParseCompare();
  ExprPtr ParseSum();
  ExprPtr ParseConcat();
  ExprPtr ParseProduct();
  ExprPtr ParsePower();
  ExprPtr ParseUnary(bool with_filter);
  ExprPtr ParsePostfix(ExprPtr node);
  ExprPtr ParseFilterExpr(ExprPtr node);
  ExprPtr ParseSubscript(ExprPtr node);
  ExprPtr ParseTest(ExprPtr node);
  ExprPtr ParseListOrDict();
  void ParseCallArgs(Expr* call);
  // A postfix chain becomes one level deeper with every link.
  void CheckChain(int* length) const;

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int nesting_ = 0;
  int nesting_limit_;
};

}  // namespace lserve::jinja
