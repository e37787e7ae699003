// Correctness of decode attention, page selection and decode plans against plain double-precision
// loops on the host. Each prints its failures and a line of totals; false: something failed.
#pragma once

namespace lserve::bench {

bool CheckDecode();
bool CheckSelect();
bool CheckDecodePlan();

}  // namespace lserve::bench
