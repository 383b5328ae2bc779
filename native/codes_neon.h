// Codes of keys and values in vectors of NEON; codes.h says what is what.
#pragma once

#include "layout.h"

namespace kept::KEPT_NS {

template <int kWords>
KEPT_INLINE void load_transposed(const std::byte* const* rows, std::int64_t at, vb* out) {
    static_assert(kWords == W);
    KEPT_UNROLL_ALL
    for (int i = 0; i < W; ++i) out[i] = load_pairs(rows[i] + at);
    transpose(out);
}

struct Bf16Code {
    static constexpr int kInWord = 2, kWords = W;

    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        out[0] = first_of_pairs(words);
        out[1] = second_of_pairs(words);
    }
    static vf read(const std::byte* row, std::int64_t d) {
        return load_bf16(reinterpret_cast<const std::uint16_t*>(row) + d);
    }
};

struct Int8Code {
    static constexpr int kInWord = 4, kWords = W;

    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        const int32x4_t codes = vreinterpretq_s32_u32(words);
        KEPT_UNROLL_ALL
        for (int i = 0; i < 4; ++i) out[i] = vcvtq_f32_s32(codes << (24 - 8 * i) >> 24);
    }
    static vf read(const std::byte* row, std::int64_t d) {
        std::uint32_t four;
        std::memcpy(&four, row + d, sizeof four);
        const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
    }
};

struct Int4Code {
    static constexpr int kInWord = 8, kWords = W;

    // Nibbles of -8 to 7 as 0 to 15 become two's complement by their highest bits.
    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        const int32x4_t nibbles = vreinterpretq_s32_u32(veorq_u32(words, vdupq_n_u32(0x88888888u)));
        KEPT_UNROLL_ALL
        for (int i = 0; i < 8; ++i) out[i] = vcvtq_f32_s32(nibbles << (28 - 4 * i) >> 28);
    }
    static vf read(const std::byte* row, std::int64_t d) {
        std::uint16_t four;
        std::memcpy(&four, row + d / 2, sizeof four);
        const int32x4_t places = {28, 24, 20, 16};
        const int32x4_t high = vshlq_s32(vdupq_n_s32(four ^ 0x8888), places);
        return vcvtq_f32_s32(vshrq_n_s32(high, 28));
    }
};

}  // namespace kept::KEPT_NS
