// Weights as they are: an instruction adds four products to each column's sum where the file is
// compiled for it, else pairs of 16-bit products are added, none of which leaves 16 bits.
#pragma once

#include "code_rows.h"

namespace kept::KEPT_NS {

using vi = int32x4_t;
constexpr int kQuadBytes = 4 * W;

struct Fours {
    int8x16_t x;
    explicit Fours(const std::int8_t* p) {
        std::uint32_t four;
        std::memcpy(&four, p, sizeof four);
        x = vreinterpretq_s8_u32(vdupq_n_u32(four));
    }
};

struct Quads {
    int8x16_t x;
};

inline Quads load_quads(const std::byte* p) {
    return {vld1q_s8(reinterpret_cast<const std::int8_t*>(p))};
}
inline void store_quads(std::byte* p, Quads w) {
    vst1q_s8(reinterpret_cast<std::int8_t*>(p), w.x);
}
inline vi dot(vi sum, Quads w, Fours a) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, w.x, a.x);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(w.x), vget_low_s8(a.x));
    return vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(w.x, a.x)));
#endif
}
inline vi start(const std::int32_t*) {
    return vdupq_n_s32(0);
}
inline vf to_float(vi x) {
    return vcvtq_f32_s32(x);
}

struct Int8Quads {
    Quads codes;
    explicit Int8Quads(const std::byte* p) : codes(load_quads(p)) {}
    Quads unit(int) const {
        const uint8x16_t order = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
        return {vqtbl1q_s8(codes.x, order)};
    }
};

template <const std::uint8_t* kBytes>
struct LevelQuads {
    uint8x16_t codes;
    explicit LevelQuads(const std::byte* p)
        : codes(vld1q_u8(reinterpret_cast<const std::uint8_t*>(p))) {}
    Quads unit(int u) const {
        const uint8x16_t nibbles = u == 0 ? vandq_u8(codes, vdupq_n_u8(15)) : vshrq_n_u8(codes, 4);
        return {vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(kBytes), nibbles))};
    }
};

inline void store_codes(std::int8_t* p, vf x) {
    // The lowest byte of each lane.
    const uint8x16_t bytes = vreinterpretq_u8_f32(x), pairs = vuzp1q_u8(bytes, bytes);
    const uint32x4_t four = vreinterpretq_u32_u8(vuzp1q_u8(pairs, pairs));
    const std::uint32_t found = vgetq_lane_u32(four, 0);
    std::memcpy(p, &found, sizeof found);
}

inline void order_for_int4(std::int8_t* p) {
    const uint8x16_t order = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
    for (int i = 0; i < kGroup; i += 16) vst1q_s8(p + i, vqtbl1q_s8(vld1q_s8(p + i), order));
}

}  // namespace kept::KEPT_NS
