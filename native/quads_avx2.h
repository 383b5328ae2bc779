// With VNNI weights are taken as 1 to 255 (kWeightOffset); without it as sizes and signs, the signs
// moved to the activations, so that no pair of products leaves 16 bits.
#pragma once

#include <immintrin.h>

#include "code_rows.h"

namespace kept::KEPT_NS {

using vi = __m256i;
constexpr int kQuadBytes = 4 * W;

struct Fours {
    __m256i x;
    explicit Fours(const std::int8_t* p) {
        int four;
        std::memcpy(&four, p, sizeof four);
        x = _mm256_set1_epi32(four);
    }
};

inline __m256i read_quads(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline void write_quads(std::byte* p, __m256i x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
}

#if defined(__AVXVNNI__)

struct Quads {
    __m256i x;
};
inline Quads quads_of(__m256i codes) {
    return {_mm256_xor_si256(codes, _mm256_set1_epi8(static_cast<char>(kWeightOffset)))};
}
inline Quads load_quads(const std::byte* p) {
    return {read_quads(p)};
}
inline vi dot(vi sum, Quads w, Fours a) {
    // By hand, as in quads_avx512.h; {vex}: the other encoding is that of AVX-512.
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w.x), "x"(a.x));
    return sum;
}
inline vi start(const std::int32_t* p) {
    return _mm256_set1_epi32(*p);
}
// What is added to int4 levels in their table.
constexpr int kLevelOffset = kWeightOffset;
inline Quads quads_of_levels(__m256i levels) {
    return {levels};
}

#else

struct Quads {
    __m256i x, size;
};
inline Quads quads_of(__m256i codes) {
    return {codes, _mm256_abs_epi8(codes)};
}
inline Quads load_quads(const std::byte* p) {
    return quads_of(read_quads(p));
}
// Adds size times `turned`, of which the products of two make a pair. By hand: of intrinsics GCC 12
// has many products under way at once, and spills the sums.
inline vi add_pairs(vi sum, __m256i size, __m256i turned) {
    asm("vpmaddubsw %1, %2, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0"
        : "+x"(sum), "+x"(turned)
        : "x"(size), "x"(_mm256_set1_epi16(1)));
    return sum;
}
inline vi dot(vi sum, Quads w, Fours a) {
    return add_pairs(sum, w.size, _mm256_sign_epi8(a.x, w.x));
}
inline vi start(const std::int32_t*) {
    return _mm256_setzero_si256();
}
constexpr int kLevelOffset = 0;
inline Quads quads_of_levels(__m256i levels) {
    return quads_of(levels);
}

// Quads for many rows. VPSIGNB takes the units that products need on AMD Zen 4; an exclusive or
// does not. It turns an activation x into -x - 1 where a weight is negative, and a group's sums
// begin with what that takes too much: the sizes of its negative weights. A pair is at most 2 * 127
// * 128.
#define KEPT_FLIPS
struct FlipQuads {
    __m256i size, flips;
};
inline FlipQuads load_flips(const std::byte* p) {
    return {read_quads(p), read_quads(p + kQuadBytes)};
}
// Adds to `taken` the sizes of a column's negative weights.
inline vi store_flips(std::byte* p, Quads w, vi taken) {
    const __m256i flips = _mm256_cmpgt_epi8(_mm256_setzero_si256(), w.x);
    write_quads(p, w.size);
    write_quads(p + kQuadBytes, flips);
    const __m256i pairs =
        _mm256_maddubs_epi16(_mm256_and_si256(w.size, flips), _mm256_set1_epi8(1));
    return _mm256_add_epi32(taken, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline vi dot(vi sum, FlipQuads w, Fours a) {
    return add_pairs(sum, w.size, _mm256_xor_si256(a.x, w.flips));
}

#endif

inline void store_quads(std::byte* p, Quads w) {
    write_quads(p, w.x);
}

inline vf to_float(vi x) {
    return _mm256_cvtepi32_ps(x);
}

struct Int8Quads {
    __m256i codes;
    explicit Int8Quads(const std::byte* p) : codes(read_quads(p)) {}
    Quads unit(int) const {
        return quads_of(
            _mm256_shuffle_epi8(codes, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                           0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15))));
    }
};

template <const std::uint8_t* kBytes>
struct LevelQuads {
    __m256i codes;
    explicit LevelQuads(const std::byte* p) : codes(read_quads(p)) {}
    Quads unit(int u) const {
        const __m256i nibbles =
            _mm256_and_si256(u == 0 ? codes : _mm256_srli_epi16(codes, 4), _mm256_set1_epi8(15));
        return quads_of_levels(_mm256_shuffle_epi8(
            _mm256_broadcastsi128_si256(_mm_load_si128(
                reinterpret_cast<const __m128i*>(kBytes + (kLevelOffset ? kNumInt4Levels : 0)))),
            nibbles));
    }
};

inline void store_codes(std::int8_t* p, vf x) {
    // The lowest byte of each lane, four to each half.
    const __m256i lowest = _mm256_shuffle_epi8(
        _mm256_castps_si256(x), _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                    0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1)));
    const __m128i both =
        _mm_unpacklo_epi32(_mm256_castsi256_si128(lowest), _mm256_extracti128_si256(lowest, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), both);
}

inline void order_for_int4(std::int8_t* p) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    auto* at = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(at, _mm256_shuffle_epi8(_mm256_loadu_si256(at), order));
}

}  // namespace kept::KEPT_NS
