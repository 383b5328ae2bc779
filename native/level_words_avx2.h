// level_words.h in vectors of AVX2.
#pragma once

#include <immintrin.h>

namespace kept::KEPT_NS {

struct Word {
    __m256i x;
};
inline Word load_word(const std::byte* p) {
    return {read_quads(p)};
}
inline void store_word(std::byte* p, Word w) {
    write_quads(p, w.x);
}

KEPT_INLINE vi dot(vi sum, Word w, Two a) {
#if defined(__AVXVNNI__)
    // By hand, as in quads_avx2.h.
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(w.x), "x"(a.x));
    return sum;
#else
    // By hand, as in quads_avx2.h.
    __m256i products = a.x;
    asm("vpmaddwd %1, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "+x"(products) : "x"(w.x));
    return sum;
#endif
}

// A byte shuffle finds the levels of two nibbles of each 16 bits, of inputs four apart.
struct LevelWords {
    __m256i even, odd;
    LevelWords(const std::byte* p, const std::uint8_t* table) {
        const __m256i codes = read_quads(p), lowest = _mm256_set1_epi8(15);
        const __m256i levels = _mm256_broadcastsi128_si256(
            _mm_load_si128(reinterpret_cast<const __m128i*>(table + kNumInt4Levels)));
        even = _mm256_shuffle_epi8(levels, _mm256_and_si256(codes, lowest));
        odd = _mm256_shuffle_epi8(levels, _mm256_and_si256(_mm256_srli_epi16(codes, 4), lowest));
    }
    KEPT_INLINE Word word(int i) const {
        const __m256i two = i % 2 ? odd : even;
        return {i < 2 ? _mm256_and_si256(two, _mm256_set1_epi16(0xff)) : _mm256_srli_epi16(two, 8)};
    }
};

inline vi set1_whole(std::int32_t x) {
    return _mm256_set1_epi32(x);
}

}  // namespace kept::KEPT_NS
