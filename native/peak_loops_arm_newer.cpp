// The loops over instructions that plain Armv8 lacks, in a file compiled for them: Clang before 16
// has their intrinsics only there, whatever a function's target attribute says.
#include "peak_loops_arm.h"

namespace kept {
namespace {

struct Bfmmla {
    using Sum = float32x4_t;
    static bfloat16x8_t operand() { return vreinterpretq_bf16_u16(vdupq_n_u16(0x3a83)); }  // 1e-3
    static Sum add(Sum sum, bfloat16x8_t a) { return vbfmmlaq_f32(sum, a, a); }
};

struct Smmla {
    using Sum = int32x4_t;
    static int8x16_t operand() { return vdupq_n_s8(3); }
    static Sum add(Sum sum, int8x16_t a) { return vmmlaq_s32(sum, a, a); }
};

struct Sdot {
    using Sum = int32x4_t;
    static int8x16_t operand() { return vdupq_n_s8(3); }
    static Sum add(Sum sum, int8x16_t a) { return vdotq_s32(sum, a, a); }
};

}  // namespace

double run_bfmmla(std::int64_t iterations) {
    return run_sums<Bfmmla>(iterations);
}

double run_smmla(std::int64_t iterations) {
    return run_sums<Smmla>(iterations);
}

double run_sdot(std::int64_t iterations) {
    return run_sums<Sdot>(iterations);
}

}  // namespace kept
