// Codes of keys and values in plain C++; codes.h says what is what.
#pragma once

#include "layout.h"

namespace kept::KEPT_NS {

template <int kWords>
KEPT_INLINE void load_transposed(const std::byte* const* rows, std::int64_t at, vb* out) {
    static_assert(kWords == W);
    for (int i = 0; i < W; ++i) out[i] = load_pairs(rows[i] + at);
    transpose(out);
}

struct Bf16Code {
    static constexpr int kInWord = 2, kWords = W;

    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        out[0] = reinterpret_cast<vf>(words << 16);
        out[1] = reinterpret_cast<vf>(words & 0xffff0000u);
    }
    static vf read(const std::byte* row, std::int64_t d) {
        std::uint16_t codes[W];
        std::memcpy(codes, row + 2 * d, sizeof codes);
        return load_bf16(codes);
    }
};

struct Int8Code {
    static constexpr int kInWord = 4, kWords = W;

    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        for (int i = 0; i < kInWord; ++i)
            for (int lane = 0; lane < W; ++lane)
                out[i][lane] = static_cast<float>(static_cast<std::int8_t>(words[lane] >> 8 * i));
    }
    static vf read(const std::byte* row, std::int64_t d) {
        vf out;
        for (int i = 0; i < W; ++i)
            out[i] = static_cast<float>(static_cast<std::int8_t>(row[d + i]));
        return out;
    }
};

struct Int4Code {
    static constexpr int kInWord = 8, kWords = W;

    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        for (int i = 0; i < kInWord; ++i)
            for (int lane = 0; lane < W; ++lane)
                out[i][lane] = static_cast<float>(static_cast<int>(words[lane] >> 4 * i & 15) - 8);
    }
    static vf read(const std::byte* row, std::int64_t d) {
        vf out;
        for (int i = 0; i < W; ++i) {
            const int pair = static_cast<int>(row[d / 2 + i / 2]);
            out[i] = static_cast<float>((i % 2 ? pair >> 4 : pair & 15) - 8);
        }
        return out;
    }
};

}  // namespace kept::KEPT_NS
