// With VNNI weights are taken as 1 to 255 (kWeightOffset); without it as sizes and signs, the signs
// moved to the activations, so that no pair of products leaves 16 bits.
#pragma once

#include <immintrin.h>

#include "code_rows.h"

namespace kept::KEPT_NS {

using vi = __m512i;
constexpr int kQuadBytes = 4 * W;

struct Fours {
    __m512i x;
    explicit Fours(const std::int8_t* p) {
        int four;
        std::memcpy(&four, p, sizeof four);
        x = _mm512_set1_epi32(four);
    }
};

#if defined(__AVX512VNNI__)

struct Quads {
    __m512i x;
};
inline Quads quads_of(__m512i codes) {
    return {_mm512_xor_si512(codes, _mm512_set1_epi8(static_cast<char>(kWeightOffset)))};
}
inline Quads load_quads(const std::byte* p) {
    return {_mm512_load_si512(p)};
}
inline void store_quads(std::byte* p, Quads w) {
    _mm512_store_si512(p, w.x);
}
inline vi dot(vi sum, Quads w, Fours a) {
    // By hand: with the intrinsic GCC 12 copies the sums and spills them at every step.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w.x), "v"(a.x));
    return sum;
}
// The same of four activations in memory.
#define KEPT_BROADCASTS
inline vi dot_of(vi sum, Quads w, const std::int8_t* a) {
    asm("vpdpbusd %2%{1to16%}, %1, %0"
        : "+v"(sum)
        : "v"(w.x), "m"(*reinterpret_cast<const std::int32_t*>(a)));
    return sum;
}
inline vi start(const std::int32_t* p) {
    return _mm512_set1_epi32(*p);
}
// What is added to int4 levels in their table.
constexpr int kLevelOffset = kWeightOffset;
inline Quads quads_of_levels(__m512i levels) {
    return {levels};
}

#else

struct Quads {
    __m512i size;
    __mmask64 negative;
};
inline Quads quads_of(__m512i codes) {
    return {_mm512_abs_epi8(codes), _mm512_movepi8_mask(codes)};
}
inline Quads load_quads(const std::byte* p) {
    return quads_of(_mm512_load_si512(p));
}
inline void store_quads(std::byte* p, Quads w) {
    _mm512_store_si512(p, _mm512_mask_sub_epi8(w.size, w.negative, _mm512_setzero_si512(), w.size));
}
inline vi dot(vi sum, Quads w, Fours a) {
    const __m512i turned = _mm512_mask_sub_epi8(a.x, w.negative, _mm512_setzero_si512(), a.x);
    const __m512i pairs = _mm512_maddubs_epi16(w.size, turned);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
inline vi start(const std::int32_t*) {
    return _mm512_setzero_si512();
}
constexpr int kLevelOffset = 0;
inline Quads quads_of_levels(__m512i levels) {
    return quads_of(levels);
}

#endif

inline vf to_float(vi x) {
    return _mm512_cvtepi32_ps(x);
}

struct Int8Quads {
    __m512i codes;
    explicit Int8Quads(const std::byte* p) : codes(_mm512_loadu_si512(p)) {}
    Quads unit(int) const {
        return quads_of(
            _mm512_shuffle_epi8(codes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                           0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15))));
    }
};

template <const std::uint8_t* kBytes>
struct LevelQuads {
    __m512i codes;
    explicit LevelQuads(const std::byte* p) : codes(_mm512_loadu_si512(p)) {}
    Quads unit(int u) const {
        const __m512i nibbles =
            _mm512_and_si512(u == 0 ? codes : _mm512_srli_epi16(codes, 4), _mm512_set1_epi8(15));
        return quads_of_levels(_mm512_shuffle_epi8(
            _mm512_broadcast_i32x4(_mm_load_si128(
                reinterpret_cast<const __m128i*>(kBytes + (kLevelOffset ? kNumInt4Levels : 0)))),
            nibbles));
    }
};

inline void store_codes(std::int8_t* p, vf x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_castps_si512(x)));
}

inline void order_for_int4(std::int8_t* p) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    auto* at = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(at, _mm256_shuffle_epi8(_mm256_loadu_si256(at), order));
}

}  // namespace kept::KEPT_NS
