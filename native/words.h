// Rows of activations as a tile reads them: turned, so that what it broadcasts lies side by side.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "tile.h"

namespace kept::KEPT_NS {

// W words of a row.
template <class Of, class Number>
KEPT_INLINE vb read_words(const Number* p) {
    if constexpr (std::is_same_v<Of, PairWords>)
        return load_pairs(p);
    else if constexpr (std::is_same_v<Number, float>)
        return reinterpret_cast<vb>(load(p));
    else
        return reinterpret_cast<vb>(load_bf16(p));
}

template <class Of, class Number>
void turn_words(const Number* from, std::int64_t stride, int rows, std::int64_t num_inputs,
                std::byte* out) {
    constexpr std::int64_t kInputs = W * Of::kInputs;
    const std::int64_t step = words_stride(rows) * kWordBytes;
    for (std::int64_t k = 0; k < num_inputs; k += kInputs, out += W * step) {
        if (rows == 1) {
            store_pairs(out, read_words<Of>(from + k));
            continue;
        }
        for (int first = 0; first < rows; first += W) {
            vb words[W];
            // In the place of a row that is not there comes the last one; nobody looks.
            KEPT_UNROLL_ALL
            for (int r = 0; r < W; ++r)
                words[r] = read_words<Of>(from + std::min(first + r, rows - 1) * stride + k);
            transpose(words);
            // Ascending: what a vector leaves behind its words the next one overwrites.
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) store_pairs(out + i * step + first * kWordBytes, words[i]);
        }
    }
}

// Writes rows [row, row + rows) over inputs [input, input + num_inputs), whole 32s of them: words
// (num_inputs / Of::kInputs, words_stride(rows)), and up to W words behind them.
template <class Of>
void make_words(const ActRows& from, std::int64_t row, int rows, std::int64_t input,
                std::int64_t num_inputs, std::byte* out) {
    const std::int64_t at = row * from.stride + input;
    if (std::is_same_v<Of, PairWords> || from.is_bf16)
        turn_words<Of>(static_cast<const std::uint16_t*>(from.data) + at, from.stride, rows,
                       num_inputs, out);
    else
        turn_words<Of>(static_cast<const float*>(from.data) + at, from.stride, rows, num_inputs,
                       out);
}

}  // namespace kept::KEPT_NS
