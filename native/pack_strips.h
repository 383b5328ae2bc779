// Rows on their way into a panel, sixteen at a time: a strip. What a strip makes of a step of
// inputs is a line of 64 bytes, which is written whole and past the caches.
#pragma once

#include <algorithm>
#include <cstring>

#include "layout.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace kept {

constexpr int kStripRows = 16;

// What a step of inputs comes to in the column of an output.
using Word = std::uint32_t;
typedef Word Words __attribute__((vector_size(16)));
typedef std::uint16_t Halves __attribute__((vector_size(16)));

#if defined(__clang__)
#define KEPT_SHUFFLE(T, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define KEPT_SHUFFLE(T, a, b, ...) __builtin_shuffle(a, b, T{__VA_ARGS__})
#endif

inline Words load_words(const std::byte* from) {
    Words x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
// `to` is a multiple of 16 bytes.
inline void store_past_caches(std::byte* to, Words x) {
#if defined(__SSE2__)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(x));
#else
    std::memcpy(to, &x, sizeof x);
#endif
}
// Before others read what was stored so.
inline void settle_strips() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// Four words of four rows, as columns have them: row i of the result is step i.
inline void turn_words(Words r[4]) {
    const Words a = KEPT_SHUFFLE(Words, r[0], r[1], 0, 4, 1, 5);
    const Words b = KEPT_SHUFFLE(Words, r[0], r[1], 2, 6, 3, 7);
    const Words c = KEPT_SHUFFLE(Words, r[2], r[3], 0, 4, 1, 5);
    const Words d = KEPT_SHUFFLE(Words, r[2], r[3], 2, 6, 3, 7);
    r[0] = KEPT_SHUFFLE(Words, a, c, 0, 1, 4, 5);
    r[1] = KEPT_SHUFFLE(Words, a, c, 2, 3, 6, 7);
    r[2] = KEPT_SHUFFLE(Words, b, d, 0, 1, 4, 5);
    r[3] = KEPT_SHUFFLE(Words, b, d, 2, 3, 6, 7);
}
// The same of codes of a byte, where the first pairs of four columns lie in front of the second.
inline void turn_pairs(Words r[4]) {
    Halves h[4];
    for (int i = 0; i < 4; ++i) h[i] = reinterpret_cast<Halves>(r[i]);
    const Halves a = KEPT_SHUFFLE(Halves, h[0], h[1], 0, 8, 1, 9, 2, 10, 3, 11);
    const Halves b = KEPT_SHUFFLE(Halves, h[0], h[1], 4, 12, 5, 13, 6, 14, 7, 15);
    const Halves c = KEPT_SHUFFLE(Halves, h[2], h[3], 0, 8, 1, 9, 2, 10, 3, 11);
    const Halves d = KEPT_SHUFFLE(Halves, h[2], h[3], 4, 12, 5, 13, 6, 14, 7, 15);
    const auto join = [](Halves low, Halves high, Words& first, Words& second) {
        const Words x = reinterpret_cast<Words>(low), y = reinterpret_cast<Words>(high);
        first = KEPT_SHUFFLE(Words, x, y, 0, 4, 1, 5);
        second = KEPT_SHUFFLE(Words, x, y, 2, 6, 3, 7);
    };
    join(a, c, r[0], r[1]);
    join(b, d, r[2], r[3]);
}

inline void put_word(Format format, std::byte* step, std::int64_t column, Word word) {
    if (!is_bytes(format)) {
        std::memcpy(step + 4 * column, &word, sizeof word);
        return;
    }
    std::byte* const to = step + column / 4 * 16 + column % 4 * 2;
    std::memcpy(to, &word, 2);
    std::memcpy(to + 8, reinterpret_cast<const std::byte*>(&word) + 2, 2);
}

// Rows of a matrix that go into neighbouring columns of one strip.
struct StripRows {
    Format format;
    std::byte* panel;
    int column, count;  // the first, and how many

    // words(i, four): so many words of row i, from word 4 * four on. Steps from 4 * begin to
    // 4 * end are written.
    template <class F>
    void put(std::int64_t begin, std::int64_t end, const F& words) const {
        if (column % 4 == 0 && count % 4 == 0)
            return is_bytes(format) ? put_fours(begin, end, words, turn_pairs)
                                    : put_fours(begin, end, words, turn_words);
        for (int i = 0; i < count; ++i)
            for (std::int64_t four = begin; four < end; ++four) {
                const Words x = words(i, four);
                for (int j = 0; j < 4; ++j)
                    put_word(format, panel + (4 * four + j) * kStepBytes, column + i, x[j]);
            }
    }

  private:
    template <class F, class Turn>
    void put_fours(std::int64_t begin, std::int64_t end, const F& words, const Turn& turn) const {
        for (std::int64_t four = begin; four < end; ++four)
            for (int i = 0; i < count; i += 4) {
                Words rows[4];
                for (int j = 0; j < 4; ++j) rows[j] = words(i + j, four);
                turn(rows);
                std::byte* const to = panel + four * 4 * kStepBytes + 4 * (column + i);
                for (int j = 0; j < 4; ++j) store_past_caches(to + j * kStepBytes, rows[j]);
            }
    }
};

// f(rows, first, strip rows) for rows [first, last) of a matrix, those of a strip together.
template <class F>
void for_strips(const Weights& w, std::byte* data, std::int64_t first, std::int64_t last,
                const F& f) {
    for (std::int64_t row = first; row < last;) {
        const std::int64_t place = w.place(row), half = row / w.width();
        const auto column = static_cast<int>(place % kPanel);
        const std::int64_t of_half = w.gated ? (half + 1) * w.width() : last;
        const std::int64_t left = kStripRows - column % kStripRows;
        const std::int64_t end = std::min({row + left, last, of_half});
        f(row, StripRows{w.format, data + place / kPanel * w.bytes_per_panel(), column,
                         static_cast<int>(end - row)});
        row = end;
    }
}

}  // namespace kept
