// Codes of keys and values in vectors of AVX2; codes.h says what is what.
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
        const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
        out[0] = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
        out[1] = _mm256_castsi256_ps(_mm256_and_si256(words, high));
    }
    static vf read(const std::byte* row, std::int64_t d) {
        return load_bf16(reinterpret_cast<const std::uint16_t*>(row) + d);
    }
};

struct Int8Code {
    static constexpr int kInWord = 4, kWords = W;

    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        KEPT_UNROLL_ALL
        for (int i = 0; i < 4; ++i)
            out[i] =
                _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 24 - 8 * i), 24));
    }
    static vf read(const std::byte* row, std::int64_t d) {
        return _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + d))));
    }
};

struct Int4Code {
    static constexpr int kInWord = 8, kWords = W;

    // Nibbles of -8 to 7 as 0 to 15 become two's complement by their highest bits.
    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        const __m256i nibbles =
            _mm256_xor_si256(words, _mm256_set1_epi32(static_cast<int>(0x88888888u)));
        KEPT_UNROLL_ALL
        for (int i = 0; i < 8; ++i)
            out[i] =
                _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(nibbles, 28 - 4 * i), 28));
    }
    static vf read(const std::byte* row, std::int64_t d) {
        std::uint32_t word;
        std::memcpy(&word, row + d / 2, sizeof word);
        const __m256i places = _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0);
        const __m256i high =
            _mm256_sllv_epi32(_mm256_set1_epi32(static_cast<int>(word ^ 0x88888888u)), places);
        return _mm256_cvtepi32_ps(_mm256_srai_epi32(high, 28));
    }
};

}  // namespace kept::KEPT_NS
