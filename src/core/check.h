// CHECK: for what only we can break. It is on in every build; a failure prints the place and
// aborts.
#pragma once

namespace lserve {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace lserve

#define CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::lserve::CheckFailed(__FILE__, __LINE__, #condition))
