#pragma once

#include <cstdint>
#include <optional>

#include "cpu_features.h"

namespace kept {

enum class MatrixDtype { fp32, bf16, int8 };

// A loop over one multiply-accumulate instruction, with every operand in registers.
struct PeakLoop {
    const char* path;          // the instruction
    double ops_per_iteration;  // a multiply and an add count as two
    // Returns something computed from every accumulator, so that none can be optimised away.
    double (*run)(std::int64_t iterations);
};

// The best loop that a CPU with these features can run for the type; none if it has no instruction
// for it. The one for the architecture that is being compiled for is defined, in peak_loops_*.cpp.
std::optional<PeakLoop> best_peak_loop(MatrixDtype dtype, const CpuFeatures& has);

}  // namespace kept

// Unrolls a loop of constant length, so that an array of accumulators can live in registers.
#if defined(__clang__)
#define KEPT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define KEPT_UNROLL _Pragma("GCC unroll 16")
#endif

// Makes the compiler forget what it knows of a vector. Sums that start alike stay alike, and it
// would otherwise compute one of them and count it for all.
#if defined(__x86_64__)
#define KEPT_HIDE(vector) asm volatile("" : "+v"(vector))
#elif defined(__aarch64__)
#define KEPT_HIDE(vector) asm volatile("" : "+w"(vector))
#endif
