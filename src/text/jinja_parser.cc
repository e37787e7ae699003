#include "text/jinja_parser.h"

#include <algorithm>
#include <initializer_list>

namespace lserve::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

class Parser : public ExprParser {
 public:
  using ExprParser::ExprParser;

  Body ParseAll() {
    Body body = ParseBody({});
    if (Current().type != Tok::kEof) FailUnexpected();
    return body;
  }

 private:
  static std::unique_ptr<Stmt> Make(StmtKind kind, int line) {
    auto s = std::make_unique<Stmt>();
    s->kind = kind;
    s->line = line;
    return s;
  }

  bool AtName(Names names) const {
    return std::any_of(names.begin(), names.end(),
                       [this](std::string_view n) { return Current().IsName(n); });
  }

  // Statements up to a tag whose name is in `ends`; that name is then current.
  Body ParseBody(Names ends) {
    Nest nest(this);
    Body body;
    while (true) {
      const Token& t = Current();
      if (t.type == Tok::kEof) {
        if (ends.size() > 0)
          FailHere(fmt::format("the template ends before '{}'", *(ends.end() - 1)));
        return body;
      }
      if (t.type == Tok::kData) {
        auto s = Make(StmtKind::kText, t.line);
        s->text = Next().text;
        body.push_back(std::move(s));
      } else if (t.type == Tok::kVarBegin) {
        auto s = Make(StmtKind::kOutput, t.line);
        Next();
        s->exprs.push_back(ParseTuple(true, false));
        Expect(Tok::kVarEnd);
        body.push_back(std::move(s));
      } else {
        Expect(Tok::kBlockBegin);
        if (AtName(ends)) return body;
        if (auto s = ParseStatement()) body.push_back(std::move(s));
        Expect(Tok::kBlockEnd);
      }
    }
  }

  // The rest of a tag, then its body.
  Body ParseBlock(Names ends) {
    SkipOp(":");
    Expect(Tok::kBlockEnd);
    return ParseBody(ends);
  }
  Body ParseBlockTo(std::string_view end) {
    Body body = ParseBlock({end});
    Next();
    return body;
  }

  std::unique_ptr<Stmt> ParseStatement() {
    if (Current().type != Tok::kName) FailHere("expected the name of a tag");
    const int line = Current().line;
    const std::string tag = Next().text;
    if (tag == "if") return ParseIf(line);
    if (tag == "for") return ParseFor(line);
    if (tag == "set") return ParseSet(line);
    if (tag == "macro") return ParseMacro(line);
    if (tag == "call") return ParseCall(line);
    if (tag == "filter") {
      auto s = Make(StmtKind::kFilterBlock, line);
      s->exprs.push_back(ParseFilters(nullptr, true));
      s->bodies.push_back(ParseBlockTo("endfilter"));
      return s;
    }
    if (tag == "with") return ParseWith(line);
    if (tag == "generation") {
      auto s = Make(StmtKind::kScope, line);
      // Jinja2 makes a function of the block, so a loop outside is out of reach.
      const int loops = std::exchange(loops_, 0);
      s->bodies.push_back(ParseBlockTo("endgeneration"));
      loops_ = loops;
      return s;
    }
    if (tag == "print") {
      auto s = Make(StmtKind::kOutput, line);
      while (Current().type != Tok::kBlockEnd) {
        if (!s->exprs.empty()) ExpectOp(",");
        s->exprs.push_back(ParseExpression());
      }
      return s;
    }
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) Fail(line, "'" + tag + "' outside a loop");
      return Make(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue, line);
    }
    for (const char* known : {"block", "extends", "include", "import", "from", "autoescape"})
      if (tag == known)
        throw TemplateError{Code::kUnsupported, "the tag '" + tag + "' is not supported", line};
    Fail(line, "unknown tag '" + tag + "'");
  }

  [[noreturn]] static void Fail(int line, std::string message) {
    throw TemplateError{Code::kInvalidArgument, std::move(message), line};
  }

  std::unique_ptr<Stmt> ParseIf(int line) {
    auto s = Make(StmtKind::kIf, line);
    while (true) {
      s->exprs.push_back(ParseTuple(false, false));
      s->bodies.push_back(ParseBlock({"elif", "else", "endif"}));
      const std::string tag = Next().text;
      if (tag == "elif") continue;
      if (tag == "else") s->bodies.push_back(ParseBlockTo("endif"));
      return s;
    }
  }

  std::unique_ptr<Stmt> ParseFor(int line) {
    auto s = Make(StmtKind::kFor, line);
    s->targets.push_back(ParseTarget(true, false));
    if (!SkipName("in")) FailHere("expected 'in'");
    s->exprs.push_back(ParseTuple(false, false));
    if (SkipName("if")) s->exprs.push_back(ParseExpression());
    if (Current().IsName("recursive"))
      throw TemplateError{Code::kUnsupported, "recursive loops are not supported", line};
    ++loops_;
    s->bodies.push_back(ParseBlock({"else", "endfor"}));
    --loops_;
    if (Next().text == "else") s->bodies.push_back(ParseBlockTo("endfor"));
    return s;
  }

  std::unique_ptr<Stmt> ParseSet(int line) {
    Target target = ParseTarget(false, true);
    if (SkipOp("=")) {
      auto s = Make(StmtKind::kSet, line);
      s->targets.push_back(std::move(target));
      s->exprs.push_back(ParseTuple(true, false));
      return s;
    }
    auto s = Make(StmtKind::kSetBlock, line);
    s->targets.push_back(std::move(target));
    s->exprs.push_back(ParseFilters(nullptr, false));
    s->bodies.push_back(ParseBlockTo("endset"));
    return s;
  }

  std::unique_ptr<Stmt> ParseWith(int line) {
    auto s = Make(StmtKind::kWith, line);
    while (Current().type != Tok::kBlockEnd) {
      if (!s->targets.empty()) ExpectOp(",");
      s->targets.push_back(ParseTarget(false, false));
      ExpectOp("=");
      s->exprs.push_back(ParseExpression());
    }
    s->bodies.push_back(ParseBlockTo("endwith"));
    return s;
  }

  void ParseSignature(MacroDef* macro) {
    ExpectOp("(");
    while (!Current().IsOp(")")) {
      if (!macro->params.empty()) ExpectOp(",");
      Param param;
      param.name = ExpectName();
      if (SkipOp("="))
        param.fallback = ParseExpression();
      else if (!macro->params.empty() && macro->params.back().fallback)
        FailHere("a parameter without a default follows one with a default");
      macro->params.push_back(std::move(param));
    }
    ExpectOp(")");
  }

  void ParseMacroBody(MacroDef* macro, std::string_view end) {
    open_macros_.push_back(macro);
    const int loops = std::exchange(loops_, 0);
    macro->body = ParseBlockTo(end);
    loops_ = loops;
    open_macros_.pop_back();
  }

  std::unique_ptr<Stmt> ParseMacro(int line) {
    auto s = Make(StmtKind::kMacro, line);
    s->macro = std::make_unique<MacroDef>();
    s->macro->name = ExpectName();
    ParseSignature(s->macro.get());
    ParseMacroBody(s->macro.get(), "endmacro");
    return s;
  }

  std::unique_ptr<Stmt> ParseCall(int line) {
    auto s = Make(StmtKind::kCallBlock, line);
    s->macro = std::make_unique<MacroDef>();
    s->macro->name = "caller";
    if (Current().IsOp("(")) ParseSignature(s->macro.get());
    s->exprs.push_back(ParseExpression());
    if (s->exprs[0]->kind != ExprKind::kCall) Fail(line, "expected a call");
    ParseMacroBody(s->macro.get(), "endcall");
    return s;
  }

  Target ParseTargetItem(bool with_namespace) {
    Nest nest(this);
    Target target;
    target.line = Current().line;
    if (SkipOp("(")) {
      target = ParseTarget(false, with_namespace);
      ExpectOp(")");
      return target;
    }
    target.name = ExpectName();
    for (const char* constant : {"true", "false", "none", "True", "False", "None"})
      if (target.name == constant) FailHere("cannot assign to '" + target.name + "'");
    if (with_namespace && SkipOp(".")) target.attribute = ExpectName();
    return target;
  }

  Target ParseTarget(bool before_in, bool with_namespace) {
    Target tuple;
    tuple.line = Current().line;
    while (true) {
      if (!tuple.items.empty()) {
        ExpectOp(",");
        tuple.is_tuple = true;
      }
      if (!tuple.items.empty() && (IsTupleEnd(before_in) || Current().IsOp("="))) break;
      tuple.items.push_back(ParseTargetItem(with_namespace));
      if (!Current().IsOp(",")) break;
    }
    if (tuple.is_tuple) return tuple;
    Target single = std::move(tuple.items[0]);
    return single;
  }

  int loops_ = 0;
};

}  // namespace

Body ParseTemplate(const std::string& source, const TemplateLimits& limits) {
  return Parser(Tokenize(source), limits.nesting).ParseAll();
}

}  // namespace lserve::jinja
