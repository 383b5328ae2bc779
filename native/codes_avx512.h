// Codes of keys and values in vectors of AVX-512; codes.h says what is what.
#pragma once

#include "layout.h"

namespace kept::KEPT_NS {

template <int kWords>
KEPT_INLINE void load_transposed(const std::byte* const* rows, std::int64_t at, vb* out) {
    static_assert(kWords == W || kWords == W / 2);
    if constexpr (kWords == W) {
        KEPT_UNROLL_ALL
        for (int i = 0; i < W; ++i) out[i] = load_pairs(rows[i] + at);
        transpose(out);
    } else {
        // Half a vector of a row, beside that of the row four further on.
        __m512i r[2][4], t[4];
        KEPT_UNROLL_ALL
        for (int half = 0; half < 2; ++half) {
            KEPT_UNROLL_ALL
            for (int i = 0; i < 4; ++i) {
                const auto part = [&](int row) {
                    return _mm256_loadu_si256(
                        reinterpret_cast<const __m256i*>(rows[8 * half + row] + at));
                };
                r[half][i] = _mm512_inserti64x4(_mm512_castsi256_si512(part(i)), part(i + 4), 1);
            }
            KEPT_UNROLL_ALL
            for (int i = 0; i < 4; i += 2) {
                t[i] = _mm512_unpacklo_epi32(r[half][i], r[half][i + 1]);
                t[i + 1] = _mm512_unpackhi_epi32(r[half][i], r[half][i + 1]);
            }
            KEPT_UNROLL_ALL
            for (int i = 0; i < 2; ++i) {
                r[half][2 * i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
                r[half][2 * i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
            }
        }
        KEPT_UNROLL_ALL
        for (int i = 0; i < 4; ++i) {
            out[i] = _mm512_shuffle_i64x2(r[0][i], r[1][i], 0x88);
            out[i + 4] = _mm512_shuffle_i64x2(r[0][i], r[1][i], 0xdd);
        }
    }
}

struct Bf16Code {
    static constexpr int kInWord = 2, kWords = W;

    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
        out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
        out[1] = _mm512_castsi512_ps(_mm512_and_si512(words, high));
    }
    static vf read(const std::byte* row, std::int64_t d) {
        return load_bf16(reinterpret_cast<const std::uint16_t*>(row) + d);
    }
#if defined(__AVX512BF16__)
    KEPT_INLINE static void pair(vb words, vb out[1]) { out[0] = words; }
    KEPT_INLINE static void zip(const std::byte* a, const std::byte* b, std::int64_t d, vb out[2]) {
        alignas(64) static constexpr std::uint16_t kLow[32] = {
            0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
            8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
        const __m512i low = _mm512_load_si512(kLow);
        const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
        const vb x = load_pairs(a + 2 * d), y = load_pairs(b + 2 * d);
        out[0] = _mm512_permutex2var_epi16(x, low, y);
        out[1] = _mm512_permutex2var_epi16(x, high, y);
    }
#endif
};

struct Int8Code {
    static constexpr int kInWord = 4, kWords = W;

    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        KEPT_UNROLL_ALL
        for (unsigned i = 0; i < 4; ++i)
            out[i] =
                _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 24 - 8 * i), 24));
    }
    static vf read(const std::byte* row, std::int64_t d) {
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + d))));
    }
#if defined(__AVX512BF16__)
    KEPT_INLINE static void pair(vb words, vb out[2]) {
        // In each 16 bytes the first pairs of four words, then their second ones.
        const __m512i parted =
            _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)));
        const Int8Codes codes(parted, kInt8Tables);
        out[0] = codes.unit(0);
        out[1] = codes.unit(1);
    }
    KEPT_INLINE static void zip(const std::byte* a, const std::byte* b, std::int64_t d, vb out[2]) {
        // (a0 b0 a1 b1 ...), in each block of 16 bytes first what becomes of out[0].
        alignas(64) static constexpr std::uint8_t kOrder[64] = {
            0,  32, 1,  33, 2,  34, 3,  35, 16, 48, 17, 49, 18, 50, 19, 51, 4,  36, 5,  37, 6,  38,
            7,  39, 20, 52, 21, 53, 22, 54, 23, 55, 8,  40, 9,  41, 10, 42, 11, 43, 24, 56, 25, 57,
            26, 58, 27, 59, 12, 44, 13, 45, 14, 46, 15, 47, 28, 60, 29, 61, 30, 62, 31, 63};
        const __m512i both = _mm512_inserti64x4(
            _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + d))),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + d)), 1);
        const Int8Codes codes(_mm512_permutexvar_epi8(_mm512_load_si512(kOrder), both),
                              kInt8Tables);
        out[0] = codes.unit(0);
        out[1] = codes.unit(1);
    }
    KEPT_INLINE static void line(const std::byte* row, std::int64_t d, vb out[2]) {
        // In each block of 16 bytes eight of what becomes of out[0], then eight of out[1].
        const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        const Int8Codes codes(_mm512_permutexvar_epi64(order, load_pairs(row + d)), kInt8Tables);
        out[0] = codes.unit(0);
        out[1] = codes.unit(1);
    }
#endif
};

struct Int4Code {
    static constexpr int kInWord = 8, kWords = W / 2;

    // By the lowest four bits of each word.
    static vf levels(__m512i words) {
        return _mm512_permutexvar_ps(
            words, _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
    }
    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        KEPT_UNROLL_ALL
        for (unsigned i = 0; i < 8; ++i) out[i] = levels(_mm512_srli_epi32(words, 4 * i));
    }
    static vf read(const std::byte* row, std::int64_t d) {
        const __m512i bytes =
            _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + d / 2)));
        // The upper nibble to the upper word.
        return levels(_mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28)));
    }
#if defined(__AVX512BF16__)
    // Of each half of a word the bf16 by its lowest five bits: a nibble, and one that the doubled
    // table ignores.
    static vb halves(__m512i codes) {
        return _mm512_permutexvar_epi16(codes, _mm512_load_si512(kNibbleLevels));
    }
    // Eight bits to each byte of 64, from these places on.
    static __m512i places(int a, int b, int c, int d) {
        return _mm512_set1_epi64(static_cast<long long>(a | b << 16) |
                                 static_cast<long long>(c | d << 16) << 32);
    }
    KEPT_INLINE static void pair(vb words, vb out[4]) {
        KEPT_UNROLL_ALL
        for (int i = 0; i < 4; ++i)
            out[i] = halves(_mm512_multishift_epi64_epi8(
                places(8 * i, 8 * i + 4, 8 * i + 32, 8 * i + 36), words));
    }
    KEPT_INLINE static void zip(const std::byte* a, const std::byte* b, std::int64_t d, vb out[2]) {
        // In each 64 bits a byte of a, its fellow of b, and both again from eight bytes further on.
        alignas(64) static constexpr std::uint8_t kOrder[64] = {
            0, 16, 8, 24, 0,  0,  0,  0,  1, 17, 9, 25, 0,  0,  0,  0,  2, 18, 10, 26, 0,  0,
            0, 0,  3, 19, 11, 27, 0,  0,  0, 0,  4, 20, 12, 28, 0,  0,  0, 0,  5,  21, 13, 29,
            0, 0,  0, 0,  6,  22, 14, 30, 0, 0,  0, 0,  7,  23, 15, 31, 0, 0,  0,  0};
        const __m256i both = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + d / 2))),
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + d / 2)), 1);
        const __m512i parted =
            _mm512_permutexvar_epi8(_mm512_load_si512(kOrder), _mm512_castsi256_si512(both));
        out[0] = halves(_mm512_multishift_epi64_epi8(places(0, 8, 4, 12), parted));
        out[1] = halves(_mm512_multishift_epi64_epi8(places(16, 24, 20, 28), parted));
    }
    KEPT_INLINE static void line(const std::byte* row, std::int64_t d, vb out[2]) {
        KEPT_UNROLL_ALL
        for (int i = 0; i < 2; ++i) {
            const auto* from = reinterpret_cast<const __m128i*>(row + d / 2) + i;
            const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from));
            // The upper nibble to the upper half of the word.
            out[i] = halves(_mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12)));
        }
    }
#endif
};

}  // namespace kept::KEPT_NS
