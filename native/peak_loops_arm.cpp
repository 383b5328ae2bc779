#if !defined(__x86_64__)

#include <cstdint>

#include "cpu_features.h"
#include "peak_loops.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace kept {

#if defined(__aarch64__)
namespace {

// Latency 4 times up to four units.
constexpr int kSums = 16;

double fp32_neon(std::int64_t iterations) {
    const float32x4_t a = vdupq_n_f32(1e-3f);
    float32x4_t sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = vdupq_n_f32(0);
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = vfmaq_f32(sums[i], a, a);
    for (int i = 1; i < kSums; ++i) sums[0] = vaddq_f32(sums[0], sums[i]);
    return vaddvq_f32(sums[0]);
}

__attribute__((target("arch=armv8.2-a+bf16"))) double bf16_neon(std::int64_t iterations) {
    const bfloat16x8_t a = vreinterpretq_bf16_u16(vdupq_n_u16(0x3a83));  // 1e-3
    float32x4_t sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = vdupq_n_f32(0);
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = vbfmmlaq_f32(sums[i], a, a);
    for (int i = 1; i < kSums; ++i) sums[0] = vaddq_f32(sums[0], sums[i]);
    return vaddvq_f32(sums[0]);
}

__attribute__((target("arch=armv8.2-a+i8mm"))) double int8_i8mm(std::int64_t iterations) {
    const int8x16_t a = vdupq_n_s8(3);
    int32x4_t sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = vdupq_n_s32(0);
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = vmmlaq_s32(sums[i], a, a);
    for (int i = 1; i < kSums; ++i) sums[0] = vaddq_s32(sums[0], sums[i]);
    return vaddvq_s32(sums[0]);
}

__attribute__((target("arch=armv8.2-a+dotprod"))) double int8_dotprod(std::int64_t iterations) {
    const int8x16_t a = vdupq_n_s8(3);
    int32x4_t sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = vdupq_n_s32(0);
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = vdotq_s32(sums[i], a, a);
    for (int i = 1; i < kSums; ++i) sums[0] = vaddq_s32(sums[0], sums[i]);
    return vaddvq_s32(sums[0]);
}

}  // namespace

std::optional<PeakLoop> best_peak_loop(MatrixDtype dtype) {
    const CpuFeatures& has = cpu_features();
    // Multiply-adds in one instruction, times two operations, times instructions per iteration.
    constexpr double kVector = 2.0 * kSums;
    switch (dtype) {
        case MatrixDtype::fp32:
            return PeakLoop{"NEON FMLA", 4 * kVector, fp32_neon};
        case MatrixDtype::bf16:
            if (has.bf16) return PeakLoop{"NEON BFMMLA", 16 * kVector, bf16_neon};
            // Without an instruction of its own bf16 is widened, and bound by fp32's.
            return PeakLoop{"NEON FMLA, bf16 widened", 4 * kVector, fp32_neon};
        case MatrixDtype::int8:
            if (has.i8mm) return PeakLoop{"NEON SMMLA", 32 * kVector, int8_i8mm};
            if (has.dotprod) return PeakLoop{"NEON SDOT", 16 * kVector, int8_dotprod};
            return std::nullopt;
    }
    return std::nullopt;
}

#else

std::optional<PeakLoop> best_peak_loop(MatrixDtype) {
    return std::nullopt;
}

#endif

}  // namespace kept

#endif
