#if !defined(__x86_64__)

#include "cpu_features.h"
#include "peak_loops.h"

#if defined(__aarch64__)
#include "peak_loops_arm.h"
#endif

namespace kept {

#if defined(__aarch64__)
namespace {

struct Fmla {
    using Sum = float32x4_t;
    static float32x4_t operand() { return vdupq_n_f32(1e-3f); }
    static Sum add(Sum sum, float32x4_t a) { return vfmaq_f32(sum, a, a); }
};

}  // namespace

std::optional<PeakLoop> best_peak_loop(MatrixDtype dtype, const CpuFeatures& has) {
    // Multiply-adds in one instruction, times two operations, times instructions per iteration.
    constexpr double kVector = 2.0 * kSums;
    switch (dtype) {
        case MatrixDtype::fp32:
            return PeakLoop{"NEON FMLA", 4 * kVector, run_sums<Fmla>};
        case MatrixDtype::bf16:
            if (has.bf16) return PeakLoop{"NEON BFMMLA", 16 * kVector, run_bfmmla};
            // Without an instruction of its own bf16 is widened, and bound by fp32's.
            return PeakLoop{"NEON FMLA, bf16 widened", 4 * kVector, run_sums<Fmla>};
        case MatrixDtype::int8:
            if (has.i8mm) return PeakLoop{"NEON SMMLA", 32 * kVector, run_smmla};
            if (has.dotprod) return PeakLoop{"NEON SDOT", 16 * kVector, run_sdot};
            return std::nullopt;
    }
    return std::nullopt;
}

#else

std::optional<PeakLoop> best_peak_loop(MatrixDtype, const CpuFeatures&) {
    return std::nullopt;
}

#endif

}  // namespace kept

#endif
