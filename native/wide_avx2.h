// Wide numbers times codes in vectors of AVX2: two inputs of 16 bits a step.
#pragma once

#include <immintrin.h>

#include "codes.h"

namespace kept::KEPT_NS {

using vi = __m256i;

inline vi wide_of(vf x) {
    return _mm256_cvtps_epi32(x);
}
inline vf floats_of(vi x) {
    return _mm256_cvtepi32_ps(x);
}
inline vi plus(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}
inline vi wide_set1(std::int32_t x) {
    return _mm256_set1_epi32(x);
}
inline std::int32_t total_of(vi x) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
// Those lanes that `order` names.
inline vi ordered(vi x, const std::int8_t* order) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(order));
    return _mm256_permutevar8x32_epi32(x, _mm256_cvtepi8_epi32(eight));
}
inline vi read_vector(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline void write_vector(std::byte* p, vi x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
}

#if defined(__AVXVNNI__)
constexpr int kWideInputs = 2, kWideVectors = 2, kWideSums = 14;
#else
constexpr int kWideInputs = 2, kWideVectors = 2, kWideSums = 12;
#endif

// Adds the products of eight pairs, those of `codes` where they lie. By hand: GCC 12 puts sums of
// whole numbers that follow each other into another order, in which products wait in memory for
// their turn.
KEPT_INLINE vi add_products(vi sum, vi wide, const std::byte* codes) {
    const vi& from = *reinterpret_cast<const vi*>(codes);
#if defined(__AVXVNNI__)
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(wide), "m"(from));
#else
    const vi product = _mm256_madd_epi16(_mm256_loadu_si256(&from), wide);
    asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product));
#endif
    return sum;
}

// Sixteen of 16 bits, of which none is too large.
inline vi packed(vi a, vi b) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
}
inline void put_wide(std::byte* row, std::int64_t, std::int64_t i, vi x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + 2 * i), _mm256_castsi256_si128(packed(x, x)));
}
inline void put_weights(std::byte* row, const vi x[8]) {
    KEPT_UNROLL_ALL
    for (int i = 0; i < 8; i += 2) write_vector(row + 16 * i, packed(x[i], x[i + 1]));
}
constexpr std::int64_t value_step(std::int64_t t) {
    return t / 2;
}

// Adds to each of kRows sums over `steps` of rows of `a`, a_stride bytes apart, by vectors of
// codes; steps of those b_stride bytes apart.
template <int kRows, int kVectors>
KEPT_INLINE void add_wide(const std::byte* b, std::int64_t b_stride, const std::byte* a,
                          std::int64_t a_stride, std::int64_t, std::int64_t steps, LaterTile& ahead,
                          vi sums[kRows][kVectors]) {
    for (std::int64_t step = 0; step < steps; step += kFetchSteps) {
        ahead.fetch();
        KEPT_UNROLL_ALL
        for (int i = 0; i < kFetchSteps; ++i, a += 4, b += b_stride) {
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                int two;
                std::memcpy(&two, a + r * a_stride, sizeof two);
                const vi wide = _mm256_set1_epi32(two);
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v)
                    sums[r][v] = add_products(sums[r][v], wide, b + 32 * v);
            }
        }
    }
}

inline __m128i read_half(const std::byte* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

struct WideInt8 {
    static constexpr int kInWord = 4, kWords = W, kOffset = 0, kDims = 16;
    static constexpr std::int8_t kOrder[8] = {0, 2, 1, 3, 4, 6, 5, 7};

    KEPT_INLINE static void keys(vi words, std::byte* to) {
        write_vector(to, _mm256_srai_epi16(_mm256_slli_epi16(words, 8), 8));
        write_vector(to + 4 * kTile, _mm256_srai_epi16(words, 8));
    }
    KEPT_INLINE static void values(const std::byte* const* rows, std::int64_t d, std::byte* to) {
        const __m128i a = read_half(rows[0] + d), b = read_half(rows[1] + d);
        write_vector(to, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)));
        write_vector(to + 32, _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b)));
    }
    template <int kVectors>
    KEPT_INLINE static void natural(vf*) {}
};

struct WideInt4 {
    static constexpr int kInWord = 8, kWords = W, kOffset = 8, kDims = 32;
    static constexpr std::int8_t kOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};

    KEPT_INLINE static void keys(vi words, std::byte* to) {
        KEPT_UNROLL_ALL
        for (int i = 0; i < 4; ++i)
            write_vector(to + i * 4 * kTile,
                         _mm256_and_si256(_mm256_srli_epi16(words, 4 * i), _mm256_set1_epi16(15)));
    }
    KEPT_INLINE static void values(const std::byte* const* rows, std::int64_t d, std::byte* to) {
        // Bytes 0 1 4 5 2 3 6 7 of both rows, so that the nibbles of a block of 16 bytes come out
        // four elements behind each other.
        const __m128i order = _mm_setr_epi8(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
        const __m128i a = read_half(rows[0] + d / 2), b = read_half(rows[1] + d / 2);
        const __m128i zipped[2] = {_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)};
        KEPT_UNROLL_ALL
        for (int i = 0; i < 2; ++i) {
            const vi pairs = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(zipped[i], order));
            const vi even = _mm256_and_si256(pairs, _mm256_set1_epi16(15));
            const vi odd = _mm256_srli_epi16(pairs, 4);
            write_vector(to + 64 * i, _mm256_unpacklo_epi32(even, odd));
            write_vector(to + 64 * i + 32, _mm256_unpackhi_epi32(even, odd));
        }
    }
    template <int kVectors>
    KEPT_INLINE static void natural(vf*) {}
};

}  // namespace kept::KEPT_NS
