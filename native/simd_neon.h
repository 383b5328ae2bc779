// NEON of 64-bit Arm, with bf16 instructions where compiled for them. Both round alike: a product
// and its sum at once, the lower of a pair first.
#pragma once

#include <arm_neon.h>

namespace kept::KEPT_NS {

constexpr int W = 4;
constexpr bool kTransposesInRegisters = true;  // beside sums
constexpr int kMaxRows = 2;                    // of a tile eight vectors wide: 16 of 32 registers

using vf = float32x4_t;
using vb = uint32x4_t;

inline vf zero() {
    return vdupq_n_f32(0.0f);
}
inline vf set1(float x) {
    return vdupq_n_f32(x);
}
inline vf load(const float* p) {
    return vld1q_f32(p);
}
inline void store(float* p, vf x) {
    vst1q_f32(p, x);
}
inline void store_past_caches(float* p, vf x) {
    store(p, x);
}
inline void settle_stores() {}
inline vf fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}
inline vf add(vf a, vf b) {
    return vaddq_f32(a, b);
}
inline vf sub(vf a, vf b) {
    return vsubq_f32(a, b);
}
inline vf mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
inline vf div(vf a, vf b) {
    return vdivq_f32(a, b);
}
// Not FMAX and FMIN, of which NaN comes out wherever it went in: b where one of them is NaN.
inline vf max(vf a, vf b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
inline vf min(vf a, vf b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
inline vf abs(vf a) {
    return vabsq_f32(a);
}
inline vf round_even(vf a) {
    return vrndnq_f32(a);
}
inline vf where_less(vf x, vf y, vf a, vf b) {
    return vbslq_f32(vcltq_f32(x, y), a, b);
}
inline vf select(std::uint64_t bits, vf a, vf b) {
    const uint32x4_t lanes = {1, 2, 4, 8};
    return vbslq_f32(vtstq_u32(vdupq_n_u32(static_cast<std::uint32_t>(bits)), lanes), a, b);
}
inline bool any_nan(vf x) {
    return vminvq_u32(vceqq_f32(x, x)) == 0;
}
inline bool any_not_less(vf x, vf y) {
    return vminvq_u32(vcltq_f32(x, y)) == 0;
}
inline vf scale_by_power(vf x, vf n) {
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vmulq_f32(x, vreinterpretq_f32_s32(power));
}
inline vf above_floor(vf x) {
    const vf kept = max(set1(-126.0f), x);  // in this order NaN stays NaN
    return sub(kept, vrndmq_f32(kept));
}
// p in [1, 2].
inline vf scale_by_floor(vf p, vf x) {
    const vf low = set1(-126.0f), floor = vrndmq_f32(max(low, x));
    const int32x4_t power = vshlq_n_s32(vcvtq_s32_f32(floor), 23);
    const vf scaled = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), power));
    return where_less(x, low, zero(), scaled);
}
inline float reduce_add(vf x) {
    return vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)));
}
inline float reduce_max(vf x) {
    return vmaxvq_f32(x);
}

inline vb load_pairs(const void* p) {
    return vreinterpretq_u32_u8(vld1q_u8(static_cast<const std::uint8_t*>(p)));
}
inline void store_pairs(void* p, vb x) {
    vst1q_u8(static_cast<std::uint8_t*>(p), vreinterpretq_u8_u32(x));
}
inline vb set1_pair(const std::uint16_t* p) {
    std::uint32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return vdupq_n_u32(pair);
}

inline vf first_of_pairs(vb x) {
    return vreinterpretq_f32_u32(vshlq_n_u32(x, 16));
}
inline vf second_of_pairs(vb x) {
    return vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000u)));
}

inline vf dp(vf acc, vb a, vb b) {
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    const bfloat16x8_t x = vreinterpretq_bf16_u32(a), y = vreinterpretq_bf16_u32(b);
    return vbfmlaltq_f32(vbfmlalbq_f32(acc, x, y), x, y);
#else
    acc = vfmaq_f32(acc, first_of_pairs(a), first_of_pairs(b));
    return vfmaq_f32(acc, second_of_pairs(a), second_of_pairs(b));
#endif
}
inline vf load_bf16(const std::uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
inline vf load_fp16(const std::uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
inline vb rounded_bits(vf x) {  // the bf16 in the upper halves, below them anything
    const vb bits = vreinterpretq_u32_f32(x);
    const vb odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const vb rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    return vbslq_u32(vceqq_f32(x, x), rounded, vorrq_u32(bits, vdupq_n_u32(0x400000)));
}
inline vf nearest_bf16(vf x) {
    return second_of_pairs(rounded_bits(x));
}
inline void store_bf16(std::uint16_t* p, vf x) {
    vst1_u16(p, vshrn_n_u32(rounded_bits(x), 16));
}

// By hand: GCC finds that a function which only prefetches has no effect, and drops its calls.
KEPT_INLINE void prefetch_near(const void* p) {
    asm volatile("prfm pldl1keep, %0" : : "Q"(*static_cast<const char*>(p)));
}

struct Int8Codes {
    int8x16_t codes;
    explicit Int8Codes(const std::byte* p, const std::uint8_t*)
        : codes(vreinterpretq_s8_u32(load_pairs(p))) {}
    Int8Codes(vb of, const std::uint8_t*) : codes(vreinterpretq_s8_u32(of)) {}
    vb unit(int u) const {
        const int16x8_t wide = vmovl_s8(u == 0 ? vget_low_s8(codes) : vget_high_s8(codes));
        const vf low = vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
        const vf high = vcvtq_f32_s32(vmovl_s16(vget_high_s16(wide)));
        // The upper halves: below them these floats are zero.
        return vreinterpretq_u32_u16(
            vuzp2q_u16(vreinterpretq_u16_f32(low), vreinterpretq_u16_f32(high)));
    }
};

struct Int4Codes {
    uint16x8_t codes;
    uint8x16x2_t levels;  // their low and their high bytes
    explicit Int4Codes(const std::byte* p, const std::uint16_t* table)
        : codes(vreinterpretq_u16_u32(load_pairs(p))),
          levels(vld2q_u8(reinterpret_cast<const std::uint8_t*>(table))) {}
    vb unit(int u) const {
        const uint16x8_t code = vandq_u16(codes >> (4 * u), vdupq_n_u16(15));
        const uint8x16_t both = vreinterpretq_u8_u16(vorrq_u16(code, vshlq_n_u16(code, 8)));
        const uint8x16_t low = vqtbl1q_u8(levels.val[0], both);
        const uint8x16_t high = vqtbl1q_u8(levels.val[1], both);
        return vreinterpretq_u32_u8(vbslq_u8(vreinterpretq_u8_u16(vdupq_n_u16(0x00ff)), low, high));
    }
};

KEPT_INLINE void transpose(vb r[W]) {
    const auto halves = [](vb a, vb b, bool upper) __attribute__((always_inline)) {
        const uint64x2_t x = vreinterpretq_u64_u32(a), y = vreinterpretq_u64_u32(b);
        return vreinterpretq_u32_u64(upper ? vtrn2q_u64(x, y) : vtrn1q_u64(x, y));
    };
    const vb even[2] = {vtrn1q_u32(r[0], r[1]), vtrn1q_u32(r[2], r[3])};
    const vb odd[2] = {vtrn2q_u32(r[0], r[1]), vtrn2q_u32(r[2], r[3])};
    r[0] = halves(even[0], even[1], false);
    r[1] = halves(odd[0], odd[1], false);
    r[2] = halves(even[0], even[1], true);
    r[3] = halves(odd[0], odd[1], true);
}

}  // namespace kept::KEPT_NS
