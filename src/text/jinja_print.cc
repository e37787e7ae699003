#include "text/jinja_print.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_eval.h"
#include "text/jinja_ops.h"
#include "text/jinja_text.h"
#include "text/utf8.h"

namespace lserve::jinja {
namespace {

void AppendHex(char32_t c, const char* prefix, int digits, std::string* out) {
  out->append(fmt::format("\\{}{:0{}x}", prefix, static_cast<uint32_t>(c), digits));
}

void AppendRepr(const Value& v, Text* out);

void AppendItems(const Values& items, Text* out) {
  bool first = true;
  for (const Value& item : items) {
    if (!first) out->Append(", ");
    first = false;
    AppendRepr(item, out);
  }
}

void AppendDict(const std::vector<DictObject::Item>& items, Text* out) {
  out->Append('{');
  bool first = true;
  for (const auto& [key, value] : items) {
    if (!first) out->Append(", ");
    first = false;
    AppendRepr(key, out);
    out->Append(": ");
    AppendRepr(value, out);
  }
  out->Append('}');
}

void AppendNamespace(const NamespaceObject& ns, Text* out) {
  out->Append("<Namespace {");
  bool first = true;
  for (const auto& [name, value] : ns.vars) {
    if (!first) out->Append(", ");
    first = false;
    out->Append(StringRepr(name));
    out->Append(": ");
    AppendRepr(value, out);
  }
  out->Append("}>");
}

void AppendRange(const RangeObject& range, Text* out) {
  out->Append(range.step == 1
                  ? fmt::format("range({}, {})", range.start, range.stop)
                  : fmt::format("range({}, {}, {})", range.start, range.stop, range.step));
}

void AppendView(const ViewObject& view, const Value& v, Text* out) {
  static constexpr const char* kNames[] = {"dict_keys([", "dict_values([", "dict_items(["};
  out->Append(kNames[static_cast<size_t>(view.of)]);
  AppendItems(Iterate(v), out);
  out->Append("])");
}

void AppendRepr(const Value& v, Text* out) {
  DepthGuard depth;
  switch (v.kind()) {
    case Kind::kUndefined:
      out->Append("Undefined");
      return;
    case Kind::kNone:
      out->Append("None");
      return;
    case Kind::kBool:
      out->Append(v.bool_value() ? "True" : "False");
      return;
    case Kind::kInt:
      out->Append(fmt::format("{}", v.int_value()));
      return;
    case Kind::kFloat:
      out->Append(FloatRepr(v.float_value()));
      return;
    case Kind::kString:
      out->Append(StringRepr(v.str()));
      return;
    case Kind::kList:
      out->Append('[');
      AppendItems(v.items(), out);
      out->Append(']');
      return;
    case Kind::kTuple:
      out->Append('(');
      AppendItems(v.items(), out);
      out->Append(v.items().size() == 1 ? ",)" : ")");
      return;
    case Kind::kDict:
      AppendDict(v.as<DictObject>().items, out);
      return;
    case Kind::kRange:
      AppendRange(v.as<RangeObject>(), out);
      return;
    case Kind::kView:
      AppendView(v.as<ViewObject>(), v, out);
      return;
    case Kind::kNamespace:
      AppendNamespace(v.as<NamespaceObject>(), out);
      return;
    case Kind::kMacro:
      out->Append("<Macro " + StringRepr(v.as<MacroObject>().name) + ">");
      return;
    case Kind::kLoop: {
      auto& loop = v.as<LoopObject>();
      out->Append(fmt::format("<LoopContext {}/{}>", loop.index0 + 1, loop.Length()));
      return;
    }
    default:
      out->Append("<" + TypeName(v) + " object>");
      return;
  }
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void Write(const Value& v, int level) {
    switch (v.kind()) {
      case Kind::kNone:
        out_.Append("null");
        return;
      case Kind::kBool:
        out_.Append(v.bool_value() ? "true" : "false");
        return;
      case Kind::kInt:
        out_.Append(fmt::format("{}", v.int_value()));
        return;
      case Kind::kFloat:
        out_.Append(Number(v.float_value()));
        return;
      case Kind::kString:
        String(v.str());
        return;
      case Kind::kList:
      case Kind::kTuple:
        Array(v.items(), level);
        return;
      case Kind::kDict:
        Dict(v.as<DictObject>().items, level);
        return;
      default:
        Fail("a value of type {} is not JSON serializable", TypeName(v));
    }
  }
  std::string Take() { return out_.Take(); }

 private:
  static std::string Number(double f) {
    if (std::isnan(f)) return "NaN";
    if (std::isinf(f)) return f > 0 ? "Infinity" : "-Infinity";
    return FloatRepr(f);
  }

  void Break(int level) {
    if (!style_.pretty) return;
    out_.Append('\n');
    out_.Fill(static_cast<size_t>(level), style_.indent);
  }

  void Array(const Values& items, int level) {
    if (items.empty()) {
      out_.Append("[]");
      return;
    }
    out_.Append('[');
    bool first = true;
    for (const Value& item : items) {
      if (!first) out_.Append(style_.item_separator);
      first = false;
      Break(level + 1);
      Write(item, level + 1);
    }
    Break(level);
    out_.Append(']');
  }

  void Dict(std::vector<DictObject::Item> items, int level) {
    if (items.empty()) {
      out_.Append("{}");
      return;
    }
    if (style_.sort_keys)
      std::stable_sort(items.begin(), items.end(),
                       [](const auto& a, const auto& b) { return Less(a.first, b.first); });
    out_.Append('{');
    bool first = true;
    for (const auto& [key, value] : items) {
      if (!first) out_.Append(style_.item_separator);
      first = false;
      Break(level + 1);
      Key(key);
      out_.Append(style_.key_separator);
      Write(value, level + 1);
    }
    Break(level);
    out_.Append('}');
  }

  void Key(const Value& key) {
    switch (key.kind()) {
      case Kind::kString:
        String(key.str());
        return;
      case Kind::kNone:
        out_.Append("\"null\"");
        return;
      case Kind::kBool:
        out_.Append(key.bool_value() ? "\"true\"" : "\"false\"");
        return;
      case Kind::kInt:
        out_.Append(fmt::format("\"{}\"", key.int_value()));
        return;
      case Kind::kFloat:
        out_.Append("\"" + Number(key.float_value()) + "\"");
        return;
      default:
        Fail("JSON keys cannot be of type {}", TypeName(key));
    }
  }

  void String(const std::string& s) {
    std::string quoted = "\"";
    quoted.reserve(s.size() + 2);
    for (size_t pos = 0; pos < s.size();) {
      const auto c = static_cast<unsigned char>(s[pos]);
      if (c >= 0x80 && style_.ensure_ascii) {
        const text::Utf8Char u = text::DecodeUtf8(s, pos);
        pos += u.length;
        if (u.code >= 0x10000) {
          AppendHex(0xD800 + ((u.code - 0x10000) >> 10), "u", 4, &quoted);
          AppendHex(0xDC00 + ((u.code - 0x10000) & 0x3FF), "u", 4, &quoted);
        } else {
          AppendHex(u.code, "u", 4, &quoted);
        }
        continue;
      }
      ++pos;
      switch (c) {
        case '"':
          quoted += "\\\"";
          break;
        case '\\':
          quoted += "\\\\";
          break;
        case '\n':
          quoted += "\\n";
          break;
        case '\r':
          quoted += "\\r";
          break;
        case '\t':
          quoted += "\\t";
          break;
        case '\f':
          quoted += "\\f";
          break;
        case '\b':
          quoted += "\\b";
          break;
        default:
          if (c < 0x20 || (c == 0x7F && style_.ensure_ascii))
            AppendHex(c, "u", 4, &quoted);
          else
            quoted += static_cast<char>(c);
      }
    }
    quoted += '"';
    out_.Append(quoted);
  }

  const JsonStyle& style_;
  Text out_;
};

}  // namespace

std::string FloatRepr(double f) {
  if (std::isnan(f)) return "nan";
  if (std::isinf(f)) return f > 0 ? "inf" : "-inf";
  // Shortest digits that read back as the same number, then laid out as Python does.
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), f, std::chars_format::scientific);
  std::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  std::string sign;
  if (text[0] == '-') {
    sign = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  int exponent = 0;
  const char* from = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(from, text.data() + text.size(), exponent);
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    std::string mantissa = digits.substr(0, 1);
    if (count > 1) mantissa += "." + digits.substr(1);
    return fmt::format("{}{}e{}{:02}", sign, mantissa, exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  if (exponent < 0) return sign + "0." + std::string(-exponent - 1, '0') + digits;
  if (count <= exponent + 1) return sign + digits + std::string(exponent + 1 - count, '0') + ".0";
  return sign + digits.substr(0, exponent + 1) + "." + digits.substr(exponent + 1);
}

std::string StringRepr(std::string_view s, bool ascii) {
  const bool has_single = s.find('\'') != std::string_view::npos;
  const char quote = has_single && s.find('"') == std::string_view::npos ? '"' : '\'';
  Work(s.size());
  std::string out(1, quote);
  for (size_t pos = 0; pos < s.size();) {
    const text::Utf8Char c = text::DecodeUtf8(s, pos);
    const std::string_view bytes = s.substr(pos, c.length);
    pos += c.length;
    if (c.code == static_cast<char32_t>(quote) || c.code == '\\') {
      out += '\\';
      out += static_cast<char>(c.code);
    } else if (c.code == '\n') {
      out += "\\n";
    } else if (c.code == '\r') {
      out += "\\r";
    } else if (c.code == '\t') {
      out += "\\t";
    } else if (ascii ? c.code >= 0x20 && c.code < 0x7F : IsPrintable(c.code)) {
      out += bytes;
    } else if (c.code < 0x100) {
      AppendHex(c.code, "x", 2, &out);
    } else if (c.code < 0x10000) {
      AppendHex(c.code, "u", 4, &out);
    } else {
      AppendHex(c.code, "U", 8, &out);
    }
  }
  out += quote;
  return out;
}

std::string Repr(const Value& v) {
  Text out;
  AppendRepr(v, &out);
  return out.Take();
}

std::string ToString(const Value& v) {
  if (v.is_string()) return v.str();
  if (v.is_undefined()) return "";
  return Repr(v);
}

std::string ToJson(const Value& v, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.Write(v, 0);
  return writer.Take();
}

}  // namespace lserve::jinja
