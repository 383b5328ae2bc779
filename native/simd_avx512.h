// AVX-512 (F, BW, DQ, VL), with bf16 and byte permutation instructions where compiled for them.
#pragma once

#include <immintrin.h>

#include "prefetch.h"

namespace kept::KEPT_NS {

constexpr int W = 16;
constexpr bool kTransposesInRegisters = true;  // beside sums
constexpr int kMaxRows = 12;                   // of a tile two vectors wide: 24 of 32 registers

using vf = __m512;
using vb = __m512i;

inline vf zero() {
    return _mm512_setzero_ps();
}
inline vf set1(float x) {
    return _mm512_set1_ps(x);
}
inline vf load(const float* p) {
    return _mm512_loadu_ps(p);
}
inline void store(float* p, vf x) {
    _mm512_storeu_ps(p, x);
}
// To memory, past the caches: p is a multiple of a vector's bytes. Others see what was stored so
// after settle_stores().
inline void store_past_caches(float* p, vf x) {
    _mm512_stream_ps(p, x);
}
inline void settle_stores() {
    _mm_sfence();
}
inline vf fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
inline vf add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
inline vf sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
inline vf mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
inline vf div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
inline vf max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
inline vf min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
inline vf abs(vf a) {
    return _mm512_abs_ps(a);
}
inline vf round_even(vf a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// a where x < y, else b.
inline vf where_less(vf x, vf y, vf a, vf b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}
// Of each lane a where its bit is set, lane 0's being the lowest, else b.
inline vf select(std::uint64_t bits, vf a, vf b) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), b, a);
}
inline bool any_nan(vf x) {
    return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0;
}
// Where either is NaN it is not less.
inline bool any_not_less(vf x, vf y) {
    return _mm512_cmp_ps_mask(x, y, _CMP_NLT_UQ) != 0;
}
// x * 2^n for whole n within the range of exponents.
inline vf scale_by_power(vf x, vf n) {
    return _mm512_scalef_ps(x, n);
}
// x - floor(x); 0 of -infinity.
inline vf above_floor(vf x) {
    return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
// p * 2^floor(x); 0 where x < -126, below which floats lose their precision.
inline vf scale_by_floor(vf p, vf x) {
    const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_ps(kept, p, x);
}
inline float reduce_add(vf x) {
    return _mm512_reduce_add_ps(x);
}
inline float reduce_max(vf x) {
    return _mm512_reduce_max_ps(x);
}

inline vb load_pairs(const void* p) {
    return _mm512_loadu_si512(p);
}
inline void store_pairs(void* p, vb x) {
    _mm512_storeu_si512(p, x);
}
inline vb set1_pair(const std::uint16_t* p) {
    int pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
}

inline vf load_bf16(const std::uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline vf load_fp16(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

#if defined(__AVX512BF16__)

inline vf dp(vf acc, vb a, vb b) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
inline __m256i narrow(vf x) {
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
}
// 2 W bf16, first those of a.
inline vb narrow_pairs(vf a, vf b) {
    return reinterpret_cast<vb>(_mm512_cvtne2ps_pbh(b, a));
}

#else

inline vf dp(vf acc, vb a, vb b) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)),
                          _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, high)),
                           _mm512_castsi512_ps(_mm512_and_si512(b, high)), acc);
}
inline __m256i narrow(vf x) {
    __m512i bits = _mm512_castps_si512(x);
    // What is subnormal becomes zero, as VCVTNEPS2BF16 has it: of 4-bit weights on AMX few rows are
    // rounded by this and many by that.
    const __mmask16 small = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
    bits = _mm512_mask_and_epi32(bits, small, bits, _mm512_set1_epi32(1 << 31));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded =
        _mm512_mask_or_epi32(rounded, nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(rounded);
}

#endif

// The nearest bf16, as a float.
inline vf nearest_bf16(vf x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(x)), 16));
}
inline void store_bf16(std::uint16_t* p, vf x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x));
}

// By hand: GCC finds that a function which only prefetches has no effect, and drops its calls.
KEPT_INLINE void prefetch_near(const void* p) {
    if (kPrefetchPastCaches)
        asm volatile("prefetchnta %0" : : "m"(*static_cast<const char*>(p)));
    else
        asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
}

// Codes of W columns by 4 inputs of int8, as layout.h has them. unit 0 gives the pairs of inputs 0
// and 1, unit 1 those of 2 and 3; exactly, since an int8 is a bf16.
struct Int8Codes {
#if defined(__AVX512VBMI__)
    __m512i low, high;
    explicit Int8Codes(const std::byte* p, const std::uint8_t* tables)
        : Int8Codes(_mm512_loadu_si512(p), tables) {}
    Int8Codes(vb codes, const std::uint8_t* tables) {
        // The two bytes of the bf16 of |code| come from tables of 64, which one instruction reads:
        // from 64 on the lower is twice the code, and the upper the same for all. The sign joins
        // it.
        const __m512i size = _mm512_abs_epi8(codes);
        const __mmask64 small = _mm512_movepi8_mask(_mm512_sub_epi8(size, _mm512_set1_epi8(64)));
        low = _mm512_mask_permutexvar_epi8(_mm512_add_epi8(size, size), small, size,
                                           _mm512_load_si512(tables));
        high = _mm512_mask_permutexvar_epi8(_mm512_set1_epi8(0x42), small, size,
                                            _mm512_load_si512(tables + 64));
        // high | (codes & 0x80)
        high =
            _mm512_ternarylogic_epi64(high, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
    }
    vb unit(int u) const {
        return u == 0 ? _mm512_unpacklo_epi8(low, high) : _mm512_unpackhi_epi8(low, high);
    }
#else
    __m512i codes;
    explicit Int8Codes(const std::byte* p, const std::uint8_t*) : codes(_mm512_loadu_si512(p)) {}
    Int8Codes(vb of, const std::uint8_t*) : codes(of) {}
    vb unit(int u) const {
        const __m512i words =
            u == 0 ? _mm512_unpacklo_epi8(codes, codes) : _mm512_unpackhi_epi8(codes, codes);
        const __m512i even = _mm512_srai_epi32(_mm512_slli_epi32(words, 16), 24);
        const __m512i odd = _mm512_srai_epi32(words, 24);
        // The low halves of these floats are zero.
        return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(even)), 16),
                               _mm512_castps_si512(_mm512_cvtepi32_ps(odd)));
    }
#endif
};

// Codes of W columns by 8 inputs of int4; unit u gives the pairs of inputs 2 u and 2 u + 1, looked
// up in a table of 32 bf16 (16 levels, twice).
struct Int4Codes {
    __m512i codes, levels;
    explicit Int4Codes(const std::byte* p, const std::uint16_t* table)
        : codes(_mm512_loadu_si512(p)), levels(_mm512_load_si512(table)) {}
    vb unit(int u) const {
        return _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, static_cast<unsigned>(4 * u)),
                                        levels);
    }
};

// Transposes W rows of W 32-bit elements in place.
KEPT_INLINE void transpose(vb r[W]) {
    __m512i t[16];
    KEPT_UNROLL_ALL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    KEPT_UNROLL_ALL
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    KEPT_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    KEPT_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

}  // namespace kept::KEPT_NS
