// level_words.h in vectors of AVX-512.
#pragma once

#include <immintrin.h>

namespace kept::KEPT_NS {

struct Word {
    __m512i x;
};
inline Word load_word(const std::byte* p) {
    return {_mm512_load_si512(p)};
}
inline void store_word(std::byte* p, Word w) {
    _mm512_store_si512(p, w.x);
}

KEPT_INLINE vi dot(vi sum, Word w, Two a) {
#if defined(__AVX512VNNI__)
    // By hand, as in quads_avx512.h.
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(w.x), "v"(a.x));
    return sum;
#else
    // By hand, as in quads_avx2.h.
    __m512i products = a.x;
    asm("vpmaddwd %1, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum), "+v"(products) : "v"(w.x));
    return sum;
#endif
}

// A byte shuffle finds the levels of two nibbles of each 16 bits, of inputs four apart.
struct LevelWords {
    __m512i even, odd;
    LevelWords(const std::byte* p, const std::uint8_t* table) {
        const __m512i codes = _mm512_loadu_si512(p), lowest = _mm512_set1_epi8(15);
        const __m512i levels = _mm512_broadcast_i32x4(
            _mm_load_si128(reinterpret_cast<const __m128i*>(table + kNumInt4Levels)));
        even = _mm512_shuffle_epi8(levels, _mm512_and_si512(codes, lowest));
        odd = _mm512_shuffle_epi8(levels, _mm512_and_si512(_mm512_srli_epi16(codes, 4), lowest));
    }
    KEPT_INLINE Word word(int i) const {
        const __m512i two = i % 2 ? odd : even;
        return {i < 2 ? _mm512_and_si512(two, _mm512_set1_epi16(0xff)) : _mm512_srli_epi16(two, 8)};
    }
};

inline vi set1_whole(std::int32_t x) {
    return _mm512_set1_epi32(x);
}

}  // namespace kept::KEPT_NS
