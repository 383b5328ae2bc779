#pragma once

#include "peak_loops.h"
#include "timed_rounds.h"

namespace kept {

// Operations per second (a multiply and an add count as two) that `num_threads` threads together
// reach with this CPU's best multiply-accumulate instruction for the type, over `num_runs` runs.
// No result if the CPU has no such instruction. Throws std::system_error.
std::optional<Rate> matrix_peak(MatrixDtype dtype, int num_threads, int num_runs);

}  // namespace kept
