// Jinja2's filters and tests, by name. Fail by TemplateError.
#pragma once

#include <string>

#include "text/jinja_value.h"

namespace lserve::jinja {

using FilterFunction = Value (*)(const Value& value, const Args& args);

// nullptr where there is none of this name.
FilterFunction FindTextFilter(const std::string& name);
FilterFunction FindNumberFilter(const std::string& name);
FilterFunction FindListFilter(const std::string& name);
FilterFunction FindFilter(const std::string& name);

Value CallFilter(const std::string& name, const Value& value, const Args& args);
bool HasTest(const std::string& name);
bool CallTest(const std::string& name, const Value& value, const Args& args);

}  // namespace lserve::jinja
