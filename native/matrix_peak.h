#pragma once

#include <string>

#include "peak_loops.h"
#include "timed_rounds.h"

namespace kept {

// Operations per second (a multiply and an add count as two) that `num_threads` threads together
// reach with this CPU's best multiply-accumulate instruction for the type, over `num_runs` runs; or
// with the best that kernels of the set `isa` may use. No result if there is no such instruction.
// Throws std::system_error.
std::optional<Rate> matrix_peak(MatrixDtype dtype, int num_threads, int num_runs,
                                const std::string& isa);

}  // namespace kept
