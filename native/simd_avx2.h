// AVX2 with FMA and F16C.
#pragma once

#include <immintrin.h>

#include "prefetch.h"

namespace kept::KEPT_NS {

constexpr int W = 8;
constexpr bool kTransposesInRegisters = false;  // beside sums
constexpr int kMaxRows = 3;                     // of a tile four vectors wide: 12 of 16 registers

using vf = __m256;
using vb = __m256i;

inline vf zero() {
    return _mm256_setzero_ps();
}
inline vf set1(float x) {
    return _mm256_set1_ps(x);
}
inline vf load(const float* p) {
    return _mm256_loadu_ps(p);
}
inline void store(float* p, vf x) {
    _mm256_storeu_ps(p, x);
}
// To memory, past the caches: p is a multiple of a vector's bytes. Others see what was stored so
// after settle_stores().
inline void store_past_caches(float* p, vf x) {
    _mm256_stream_ps(p, x);
}
inline void settle_stores() {
    _mm_sfence();
}
inline vf fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
inline vf add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
inline vf sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
inline vf mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
inline vf div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
inline vf max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
inline vf min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
inline vf abs(vf a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
inline vf round_even(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline vf where_less(vf x, vf y, vf a, vf b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
}
inline vf select(std::uint64_t bits, vf a, vf b) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i of = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(of, lane)));
}
inline bool any_nan(vf x) {
    return _mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) != 0;
}
inline bool any_not_less(vf x, vf y) {
    return _mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_NLT_UQ)) != 0;
}
inline vf scale_by_power(vf x, vf n) {
    const __m256i power =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(power));
}
inline vf above_floor(vf x) {
    const vf kept = max(set1(-126.0f), x);  // in this order NaN stays NaN
    return sub(kept, _mm256_floor_ps(kept));
}
// p in [1, 2].
inline vf scale_by_floor(vf p, vf x) {
    const vf low = set1(-126.0f), floor = _mm256_floor_ps(max(low, x));
    const __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(floor), 23);
    const __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(p), power);
    return _mm256_andnot_ps(_mm256_cmp_ps(x, low, _CMP_LT_OQ), _mm256_castsi256_ps(scaled));
}
inline float reduce_add(vf x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float reduce_max(vf x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

inline vb load_pairs(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void store_pairs(void* p, vb x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), x);
}
inline vb set1_pair(const std::uint16_t* p) {
    int pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
}

inline vf dp(vf acc, vb a, vb b) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                          _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)), acc);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(a, high)),
                           _mm256_castsi256_ps(_mm256_and_si256(b, high)), acc);
}
inline vf load_bf16(const std::uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline vf load_fp16(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __m256i rounded_bits(vf x) {  // the bf16 in the upper halves, below them anything
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, quiet, nan);
}
inline vf nearest_bf16(vf x) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return _mm256_castsi256_ps(_mm256_and_si256(rounded_bits(x), high));
}
inline void store_bf16(std::uint16_t* p, vf x) {
    const __m256i words = _mm256_srli_epi32(rounded_bits(x), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

// By hand: GCC finds that a function which only prefetches has no effect, and drops its calls.
KEPT_INLINE void prefetch_near(const void* p) {
    if (kPrefetchPastCaches)
        asm volatile("prefetchnta %0" : : "m"(*static_cast<const char*>(p)));
    else
        asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
}

struct Int8Codes {
    __m256i codes;
    explicit Int8Codes(const std::byte* p, const std::uint8_t*)
        : codes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))) {}
    Int8Codes(vb of, const std::uint8_t*) : codes(of) {}
    vb unit(int u) const {
        const __m256i words =
            u == 0 ? _mm256_unpacklo_epi8(codes, codes) : _mm256_unpackhi_epi8(codes, codes);
        const __m256i even = _mm256_srai_epi32(_mm256_slli_epi32(words, 16), 24);
        const __m256i odd = _mm256_srai_epi32(words, 24);
        // The low halves of these floats are zero.
        return _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(even)), 16),
                               _mm256_castps_si256(_mm256_cvtepi32_ps(odd)));
    }
};

struct Int4Codes {
    __m256i codes, low, high;  // the table's low and high bytes, 16 of each, for byte shuffles
    explicit Int4Codes(const std::byte* p, const std::uint16_t* table)
        : codes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))) {
        const __m256i split =
            _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8,
                             10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        const __m256i levels = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table));
        const __m256i parted = _mm256_shuffle_epi8(levels, split);
        low = _mm256_permute4x64_epi64(parted, 0x88);   // quadwords 0, 2, 0, 2
        high = _mm256_permute4x64_epi64(parted, 0xdd);  // quadwords 1, 3, 1, 3
    }
    vb unit(int u) const {
        const __m256i code =
            _mm256_and_si256(_mm256_srli_epi16(codes, 4 * u), _mm256_set1_epi16(0x000f));
        const __m256i both = _mm256_or_si256(code, _mm256_slli_epi16(code, 8));
        return _mm256_blendv_epi8(_mm256_shuffle_epi8(high, both), _mm256_shuffle_epi8(low, both),
                                  _mm256_set1_epi16(0x00ff));
    }
};

KEPT_INLINE void transpose(vb r[W]) {
    __m256i t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
    }
}

}  // namespace kept::KEPT_NS
