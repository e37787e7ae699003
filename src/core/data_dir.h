// Where lserve's own data files (data/) are at run time: $LSERVE_DATA_DIR, else ../share/lserve
// beside the program, else the source tree it was built from.
#pragma once

#include <string>

namespace lserve {

std::string DataDir();

}  // namespace lserve
