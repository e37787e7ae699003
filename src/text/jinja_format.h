// Python's two ways to format: "%d" % x and "{}".format(x).
#pragma once

#include <string>

#include "text/jinja_value.h"

namespace lserve::jinja {

std::string PercentFormat(const std::string& format, const Value& argument);
std::string BraceFormat(const std::string& format, const Args& args);

}  // namespace lserve::jinja
