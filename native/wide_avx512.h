// Wide numbers times codes in vectors of AVX-512: with VNNI four inputs a step, codes as bytes
// without a sign and wide numbers in two halves, else two inputs of 16 bits.
#pragma once

#include <immintrin.h>

#include "codes.h"

namespace kept::KEPT_NS {

using vi = __m512i;

inline vi wide_of(vf x) {
    return _mm512_cvtps_epi32(x);
}
inline vf floats_of(vi x) {
    return _mm512_cvtepi32_ps(x);
}
inline vi plus(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}
inline vi wide_set1(std::int32_t x) {
    return _mm512_set1_epi32(x);
}
inline std::int32_t total_of(vi x) {
    return _mm512_reduce_add_epi32(x);
}
// Of each eight lanes those of `order`.
inline vi ordered(vi x, const std::int8_t* order) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(order));
    const __m512i twice = _mm512_cvtepi8_epi32(_mm_unpacklo_epi64(eight, eight));
    return _mm512_permutexvar_epi32(
        _mm512_mask_add_epi32(twice, 0xff00, twice, _mm512_set1_epi32(8)), x);
}
inline vi read_vector(const std::byte* p) {
    return _mm512_loadu_si512(p);
}
inline void write_vector(std::byte* p, vi x) {
    _mm512_storeu_si512(p, x);
}
inline vi read_four(const std::byte* p) {
    int four;
    std::memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

#if defined(__AVX512VNNI__)

constexpr int kWideInputs = 4, kWideVectors = 2, kWideSums = 14;

inline void put_wide(std::byte* row, std::int64_t inputs, std::int64_t i, vi x) {
    const vi high = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8);
    auto* at = reinterpret_cast<__m128i*>(row + i);
    _mm_storeu_si128(at, _mm512_cvtepi32_epi8(high));
    at = reinterpret_cast<__m128i*>(row + inputs + i);
    _mm_storeu_si128(at, _mm512_cvtepi32_epi8(x));
}

// Packing goes by blocks of 16 bytes, which leaves fours of tokens together.
inline void put_weights(std::byte* row, const vi x[4]) {
    const __m512i a = _mm512_packs_epi32(x[0], x[1]), b = _mm512_packs_epi32(x[2], x[3]);
    const auto high = [](__m512i of) {
        return _mm512_srai_epi16(_mm512_add_epi16(of, _mm512_set1_epi16(128)), 8);
    };
    const auto low = [](__m512i of) { return _mm512_and_si512(of, _mm512_set1_epi16(255)); };
    write_vector(row, _mm512_packs_epi16(high(a), high(b)));
    write_vector(row + 64, _mm512_packus_epi16(low(a), low(b)));
}
constexpr std::int64_t value_step(std::int64_t t) {
    return t / 4 % 4 * 4 + t / 16;
}

// Adds to each of kRows sums over `steps` of rows of `a`, a_stride bytes apart, of `inputs` each,
// by vectors of codes; steps of those b_stride bytes apart.
template <int kRows, int kVectors>
KEPT_INLINE void add_wide(const std::byte* b, std::int64_t b_stride, const std::byte* a,
                          std::int64_t a_stride, std::int64_t inputs, std::int64_t steps,
                          LaterTile& ahead, vi sums[kRows][kVectors]) {
    vi high[kRows][kVectors];
    KEPT_UNROLL_ALL
    for (int r = 0; r < kRows; ++r) {
        KEPT_UNROLL_ALL
        for (int v = 0; v < kVectors; ++v) high[r][v] = _mm512_setzero_si512();
    }
    const auto dot = [](vi sum, vi codes, vi four) __attribute__((always_inline)) {
        // By hand: with the intrinsic GCC 12 copies the sums and spills them at every step.
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(four));
        return sum;
    };
    for (std::int64_t step = 0; step < steps; step += kFetchSteps) {
        ahead.fetch();
        KEPT_UNROLL_ALL
        for (int i = 0; i < kFetchSteps; ++i, a += 4, b += b_stride) {
            vi codes[kVectors];
            KEPT_UNROLL_ALL
            for (int v = 0; v < kVectors; ++v) codes[v] = read_vector(b + 64 * v);
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                const vi upper = read_four(a + r * a_stride);
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v) high[r][v] = dot(high[r][v], codes[v], upper);
                const vi lower = read_four(a + r * a_stride + inputs);
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v) sums[r][v] = dot(sums[r][v], codes[v], lower);
            }
        }
    }
    KEPT_UNROLL_ALL
    for (int r = 0; r < kRows; ++r) {
        KEPT_UNROLL_ALL
        for (int v = 0; v < kVectors; ++v)
            sums[r][v] = plus(sums[r][v], _mm512_slli_epi32(high[r][v], 8));
    }
}

// Of four rows the bytes of each block of 16: in out[i] its bytes 4 i to 4 i + 3, four rows each.
inline void zip_bytes(const vi rows[4], vi out[4]) {
    const vi a = _mm512_unpacklo_epi8(rows[0], rows[1]);
    const vi b = _mm512_unpackhi_epi8(rows[0], rows[1]);
    const vi c = _mm512_unpacklo_epi8(rows[2], rows[3]);
    const vi d = _mm512_unpackhi_epi8(rows[2], rows[3]);
    out[0] = _mm512_unpacklo_epi16(a, c), out[1] = _mm512_unpackhi_epi16(a, c);
    out[2] = _mm512_unpacklo_epi16(b, d), out[3] = _mm512_unpackhi_epi16(b, d);
}

struct WideInt8 {
    static constexpr int kInWord = 4, kWords = W, kOffset = 128, kDims = 64;
    static constexpr std::int8_t kOrder[8] = {0, 1, 2, 3, 4, 5, 6, 7};

    static vi unsigned_of(vi codes) {
        return _mm512_xor_si512(codes, _mm512_set1_epi8(static_cast<char>(kOffset)));
    }
    KEPT_INLINE static void keys(vi words, std::byte* to) { write_vector(to, unsigned_of(words)); }
    KEPT_INLINE static void values(const std::byte* const* rows, std::int64_t d, std::byte* to) {
        const vi order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        vi of[4], zipped[4];
        KEPT_UNROLL_ALL
        for (int i = 0; i < 4; ++i)
            of[i] = _mm512_permutexvar_epi32(order, read_vector(rows[i] + d));
        zip_bytes(of, zipped);
        KEPT_UNROLL_ALL
        for (int i = 0; i < 4; ++i) write_vector(to + 64 * i, unsigned_of(zipped[i]));
    }
    template <int kVectors>
    KEPT_INLINE static void natural(vf*) {}
};

struct WideInt4 {
    static constexpr int kInWord = 8, kWords = W / 2, kOffset = 8, kDims = 64;
    static constexpr std::int8_t kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

    // Lower nibbles, and upper ones.
    KEPT_INLINE static void write_parted(vi words, std::byte* to, std::int64_t stride) {
        const vi nibble = _mm512_set1_epi8(15);
        write_vector(to, _mm512_and_si512(words, nibble));
        write_vector(to + stride, _mm512_and_si512(_mm512_srli_epi16(words, 4), nibble));
    }
    KEPT_INLINE static void keys(vi words, std::byte* to) { write_parted(words, to, 4 * kTile); }
    KEPT_INLINE static void values(const std::byte* const* rows, std::int64_t d, std::byte* to) {
        // Two rows side by side, so that each block of 16 bytes is 32 elements of one.
        vi of[4], zipped[4];
        KEPT_UNROLL_ALL
        for (int i = 0; i < 4; ++i)
            of[i] = _mm512_castsi256_si512(
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i] + d / 2)));
        zip_bytes(of, zipped);
        const auto both = [&](int i) {
            return _mm512_inserti64x4(zipped[i], _mm512_castsi512_si256(zipped[i + 1]), 1);
        };
        const vi first = both(0), last = both(2);
        write_parted(_mm512_shuffle_i64x2(first, last, 0x88), to, 64);
        write_parted(_mm512_shuffle_i64x2(first, last, 0xdd), to + 128, 64);
    }
    // Of elements 0 2 4 ... 30 and 1 3 5 ... 31.
    template <int kVectors>
    KEPT_INLINE static void natural(vf* x) {
        static_assert(kVectors == 2);
        const vi low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const vf even = x[0];
        x[0] = _mm512_permutex2var_ps(even, low, x[1]);
        x[1] = _mm512_permutex2var_ps(even, plus(low, _mm512_set1_epi32(8)), x[1]);
    }
};

#else

constexpr int kWideInputs = 2, kWideVectors = 4, kWideSums = 24;

inline void put_wide(std::byte* row, std::int64_t, std::int64_t i, vi x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + 2 * i), _mm512_cvtepi32_epi16(x));
}
inline void put_weights(std::byte* row, const vi x[4]) {
    KEPT_UNROLL_ALL
    for (int i = 0; i < 4; ++i) put_wide(row, 0, i * W, x[i]);
}
constexpr std::int64_t value_step(std::int64_t t) {
    return t / 2;
}

template <int kRows, int kVectors>
KEPT_INLINE void add_wide(const std::byte* b, std::int64_t b_stride, const std::byte* a,
                          std::int64_t a_stride, std::int64_t, std::int64_t steps, LaterTile& ahead,
                          vi sums[kRows][kVectors]) {
    for (std::int64_t step = 0; step < steps; step += kFetchSteps) {
        ahead.fetch();
        KEPT_UNROLL_ALL
        for (int i = 0; i < kFetchSteps; ++i, a += 4, b += b_stride) {
            vi codes[kVectors];
            KEPT_UNROLL_ALL
            for (int v = 0; v < kVectors; ++v) codes[v] = read_vector(b + 64 * v);
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                const vi two = read_four(a + r * a_stride);
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v)
                    sums[r][v] = plus(sums[r][v], _mm512_madd_epi16(codes[v], two));
            }
        }
    }
}

// The bytes of two rows of 32 in turn, in two vectors.
inline void zip_bytes(const std::byte* a, const std::byte* b, __m256i out[2]) {
    const auto parted = [](const std::byte* p) {
        return _mm256_permute4x64_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                                        0xd8);
    };
    const __m256i x = parted(a), y = parted(b);
    out[0] = _mm256_unpacklo_epi8(x, y), out[1] = _mm256_unpackhi_epi8(x, y);
}

struct WideInt8 {
    static constexpr int kInWord = 4, kWords = W, kOffset = 0, kDims = 32;
    static constexpr std::int8_t kOrder[8] = {0, 2, 1, 3, 4, 6, 5, 7};

    KEPT_INLINE static void keys(vi words, std::byte* to) {
        write_vector(to, _mm512_srai_epi16(_mm512_slli_epi16(words, 8), 8));
        write_vector(to + 4 * kTile, _mm512_srai_epi16(words, 8));
    }
    KEPT_INLINE static void values(const std::byte* const* rows, std::int64_t d, std::byte* to) {
        __m256i zipped[2];
        zip_bytes(rows[0] + d, rows[1] + d, zipped);
        KEPT_UNROLL_ALL
        for (int i = 0; i < 2; ++i) write_vector(to + 64 * i, _mm512_cvtepi8_epi16(zipped[i]));
    }
    template <int kVectors>
    KEPT_INLINE static void natural(vf*) {}
};

struct WideInt4 {
    static constexpr int kInWord = 8, kWords = W / 2, kOffset = 8, kDims = 64;
    static constexpr std::int8_t kOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};

    KEPT_INLINE static void keys(vi words, std::byte* to) {
        KEPT_UNROLL_ALL
        for (unsigned i = 0; i < 4; ++i)
            write_vector(to + i * 4 * kTile,
                         _mm512_and_si512(_mm512_srli_epi16(words, 4 * i), _mm512_set1_epi16(15)));
    }
    KEPT_INLINE static void values(const std::byte* const* rows, std::int64_t d, std::byte* to) {
        // Two bytes of a row, and two that come four further on, for each half of 16 elements.
        const vi low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const vi high = plus(low, _mm512_set1_epi32(8));
        __m256i zipped[2];
        zip_bytes(rows[0] + d / 2, rows[1] + d / 2, zipped);
        KEPT_UNROLL_ALL
        for (int i = 0; i < 2; ++i) {
            const vi pairs = _mm512_cvtepu8_epi16(zipped[i]);
            const vi even = _mm512_and_si512(pairs, _mm512_set1_epi16(15));
            const vi odd = _mm512_srli_epi16(pairs, 4);
            write_vector(to + 128 * i, _mm512_permutex2var_epi32(even, low, odd));
            write_vector(to + 128 * i + 64, _mm512_permutex2var_epi32(even, high, odd));
        }
    }
    template <int kVectors>
    KEPT_INLINE static void natural(vf*) {}
};

#endif

}  // namespace kept::KEPT_NS
