// A tile of stored keys or values as matrix tiles take them, bf16 from whatever codec, unscaled.
//
//   key_rows      (64 tokens, padded D)            left operand: a row is a token
//   key_pairs     (padded D / 2, 64 tokens, 2)     right operand: a row is two elements of a head
//   value_pairs   (32 pairs of tokens, padded D, 2)
#pragma once

#include <algorithm>

#include "tile_codes.h"

namespace kept::KEPT_NS {

// Rows of bf16 where the distance between them is the same, in groups of a matrix tile's rows, of
// which the last may lie elsewhere.
struct KeyRows {
    const std::byte* first;
    std::int64_t stride;  // bytes
    std::int64_t last_group = kTile / kTileRows;
    const std::byte* last = nullptr;

    const std::byte* group(std::int64_t i) const {
        return i == last_group ? last : first + i * kTileRows * stride;
    }
};

// Codes as bf16, which holds them exactly.
template <class Code>
KEPT_INLINE void widen_row(const std::byte* row, std::int64_t count, std::uint16_t* out) {
    std::int64_t d = 0;
#if defined(__AVX512BF16__)
    if constexpr (!std::is_same_v<Code, Bf16Code>)
        for (; d + 4 * W <= count; d += 4 * W) {
            vb pairs[2];
            Code::line(row, d, pairs);
            store_pairs(out + d, pairs[0]);
            store_pairs(out + d + 2 * W, pairs[1]);
        }
#endif
    for (; d < count; d += W) store_bf16(out + d, Code::read(row, d));
}

// The first `count` rows of keys: themselves where they are such rows, else `out`, to which they
// go. Rows of the last group beyond them may be anything.
inline KeyRows key_rows(const TileRows& keys, std::int64_t count, std::int64_t padded,
                        std::byte* staged, std::byte* out) {
    if (keys.stored.codec == Codec::bf16) {
        const auto bytes = static_cast<std::size_t>(keys.bytes);
        if (keys.head_dim == padded) {
            // Whole groups lie within the tile's block, the last perhaps not.
            const std::int64_t whole = count / kTileRows, begin = whole * kTileRows;
            std::memcpy(out, keys.first_row() + begin * keys.bytes, (count - begin) * bytes);
            return {keys.first_row(), keys.bytes, whole, out};
        }
        for (std::int64_t t = 0; t < count; ++t) {
            std::memcpy(out + t * padded * 2, keys.rows[t], bytes);
            std::memset(out + t * padded * 2 + bytes, 0, padded * 2 - bytes);
        }
        return {out, padded * 2};
    }
    with_code(keys, [&](auto code) {
        using Code = decltype(code);
        const std::byte* copies[kTile];
        const std::byte* const* rows = reach<Code>(keys, padded, staged, copies);
        for (std::int64_t t = 0; t < count; ++t)
            widen_row<Code>(rows[t], padded, reinterpret_cast<std::uint16_t*>(out) + t * padded);
    });
    return {out, padded * 2};
}

// Keys as pairs of elements.
inline void key_pairs(const TileRows& keys, std::int64_t padded, std::byte* staged,
                      std::byte* out) {
#if defined(__AVX512BF16__)
    expand<PairOperands>(keys, true, padded, staged, out);
#else
    // Without instructions for bf16 there are no tiles either: this feeds the emulated ones.
    with_code(keys, [&](auto code) {
        alignas(64) std::uint16_t row[kMaxHeadDim];
        auto* pairs = reinterpret_cast<std::uint16_t*>(out);
        const std::byte* copies[kTile];
        const std::byte* const* rows = reach<decltype(code)>(keys, padded, staged, copies);
        for (std::int64_t t = 0; t < kTile; ++t) {
            widen_row<decltype(code)>(rows[t], padded, row);
            for (std::int64_t d = 0; d < padded; ++d)
                pairs[(d / 2 * kTile + t) * 2 + d % 2] = row[d];
        }
    });
#endif
}

// Two rows as pairs of their elements.
template <class Code>
KEPT_INLINE void zip_rows(const std::byte* a, const std::byte* b, std::int64_t padded,
                          std::byte* out) {
#if defined(__AVX512BF16__)
    for (std::int64_t d = 0; d < padded; d += 2 * W) {
        vb pairs[2];
        Code::zip(a, b, d, pairs);
        store_pairs(out + d * 4, pairs[0]);
        store_pairs(out + (d + W) * 4, pairs[1]);
    }
#else
    alignas(64) std::uint16_t rows[2][kMaxHeadDim];
    widen_row<Code>(a, padded, rows[0]);
    widen_row<Code>(b, padded, rows[1]);
    auto* pairs = reinterpret_cast<std::uint16_t*>(out);
    for (std::int64_t d = 0; d < padded; ++d)
        for (int i = 0; i < 2; ++i) pairs[2 * d + i] = rows[i][d];
#endif
}

// Values of tokens [begin, end) as pairs of tokens; `between` is called after each.
template <class Between>
void value_pairs(const TileRows& values, std::int64_t padded, std::int64_t begin, std::int64_t end,
                 std::byte* staged, std::byte* out, const Between& between) {
    with_code(values, [&](auto code) {
        using Code = decltype(code);
        const std::byte* copies[kTile];
        const std::byte* const* rows = reach<Code>(values, padded, staged, copies);
        out += begin / 2 * padded * 4;
        for (std::int64_t t = begin; t < end; t += 2, out += padded * 4) {
            zip_rows<Code>(rows[t], rows[t + 1], padded, out);
            between();
        }
    });
}

}  // namespace kept::KEPT_NS
