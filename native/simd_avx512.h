// AVX-512 (F, BW, DQ, VL), with bf16 and byte permutation instructions where compiled for them.
#pragma once

#include <immintrin.h>

#include "prefetch.h"

namespace kept::KEPT_NS {

constexpr int W = 16;
constexpr int kMaxRows = 12;  // of a tile two vectors wide: 24 of 32 registers

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
inline bool any_nan(vf x) {
    return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0;
}
inline bool any_greater(vf x, vf y) {
    return _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ) != 0;
}
// x * 2^n for whole n within the range of exponents.
inline vf scale_by_power(vf x, vf n) {
    return _mm512_scalef_ps(x, n);
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

#if defined(__AVX512BF16__)

inline vf dp(vf acc, vb a, vb b) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
inline __m256i narrow(vf x) {
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
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
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded =
        _mm512_mask_or_epi32(rounded, nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(rounded);
}

#endif

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
        // The two bytes of the bf16 of |code| come from two tables of 128; the sign joins the
        // upper.
        const __m512i size = _mm512_abs_epi8(codes);
        low = _mm512_permutex2var_epi8(_mm512_load_si512(tables), size,
                                       _mm512_load_si512(tables + 64));
        high = _mm512_permutex2var_epi8(_mm512_load_si512(tables + 128), size,
                                        _mm512_load_si512(tables + 192));
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

// 2 W signed bytes as bf16, exactly.
inline vb widen_int8(const std::int8_t* p) {
    const vf low = _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    const vf high = _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16))));
#if defined(__AVX512BF16__)
    return reinterpret_cast<vb>(_mm512_cvtne2ps_pbh(high, low));
#else
    return _mm512_inserti64x4(_mm512_castsi256_si512(narrow(low)), narrow(high), 1);
#endif
}

// W bytes of two nibbles, the lower first, by a table of 32 bf16 (16 levels, twice).
inline vb widen_int4(const std::uint8_t* p, const std::uint16_t* table) {
    const __m512i bytes =
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    // The lookup reads five bits of each half: a nibble, and one that the doubled table ignores.
    const __m512i codes = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
    return _mm512_permutexvar_epi16(codes, _mm512_load_si512(table));
}

// W words of four int8 in the order that Int8Codes has them.
inline vb order_int8(vb words) {
    return _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                          0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)));
}

// Rows of 2 W bf16 to pairs across two rows: (a0 b0), (a1 b1), ... in two vectors.
KEPT_INLINE void zip_rows(vb a, vb b, vb out[2]) {
    alignas(64) static constexpr std::uint16_t kLow[32] = {
        0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
        8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(kLow);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    out[0] = _mm512_permutex2var_epi16(a, low, b);
    out[1] = _mm512_permutex2var_epi16(a, high, b);
}

// Rows of 2 W int8 to pairs of bf16 across two rows.
KEPT_INLINE void zip_int8(const std::int8_t* a, const std::int8_t* b, vb out[2]) {
#if defined(__AVX512VBMI__)
    // (a0 b0 a1 b1 ...), in each block of 16 bytes first what becomes of out[0].
    alignas(64) static constexpr std::uint8_t kOrder[64] = {
        0,  32, 1,  33, 2,  34, 3,  35, 16, 48, 17, 49, 18, 50, 19, 51, 4,  36, 5,  37, 6,  38,
        7,  39, 20, 52, 21, 53, 22, 54, 23, 55, 8,  40, 9,  41, 10, 42, 11, 43, 24, 56, 25, 57,
        26, 58, 27, 59, 12, 44, 13, 45, 14, 46, 15, 47, 28, 60, 29, 61, 30, 62, 31, 63};
    const __m512i both = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a))),
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)), 1);
    const Int8Codes codes(_mm512_permutexvar_epi8(_mm512_load_si512(kOrder), both), kInt8Tables);
    out[0] = codes.unit(0);
    out[1] = codes.unit(1);
#else
    zip_rows(widen_int8(a), widen_int8(b), out);
#endif
}

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
