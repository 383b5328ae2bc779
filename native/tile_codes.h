// A tile of stored keys or values, expanded once from whatever codec to the operands of tile.h.
// int8 and int4 codes stay as they are; their scales are read apart.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "codecs.h"
#include "linear.h"
#include "place.h"
#include "sight.h"

namespace kept::KEPT_NS {

// Zeros in place of tokens that no query of a unit sees: what lies there may be another token's, or
// nothing.
alignas(64) inline constexpr std::byte kNothing[4 * kMaxHeadDim] = {};

// Where the codes of a tile's tokens lie, and which entries they are.
struct TileRows {
    const Stored& stored;
    TokenSet seen;
    std::int64_t head_dim, bytes, scales;
    bool plain;  // one behind the other, and all of them seen
    std::int64_t entries[kTile];
    const std::byte* rows[kTile];  // of a token not in `seen`: zeros

    TileRows(const Stored& from, const BlockEntries& where, std::int64_t width, std::int64_t token,
             TokenSet tokens)
        : stored(from),
          seen(tokens),
          head_dim(width),
          bytes(code_bytes(from.codec, width)),
          scales(num_scales(from.codec, width)) {
        const std::int64_t first = where.of(token), last = where.of(token + kTile - 1);
        plain = seen == ~TokenSet{0} && last - first == kTile - 1;
        if (plain) {
            for (std::int64_t t = 0; t < kTile; ++t) entries[t] = first + t;
            for (std::int64_t t = 0; t < kTile; ++t) rows[t] = from.codes + (first + t) * bytes;
            return;
        }
        for (std::int64_t t = 0; t < kTile; ++t) {
            entries[t] = where.of(token + t);
            rows[t] = holds(seen, t) ? from.codes + entries[t] * bytes : kNothing;
        }
    }

    const std::uint16_t* scales_of(std::int64_t t) const {
        return stored.scales + entries[t] * scales;
    }
    bool finite(std::int64_t t) const {
        return all_finite(stored.codec, rows[t], scales_of(t), head_dim);
    }
    void floats(std::int64_t t, float* out) const {
        if (holds(seen, t))
            read_floats(stored.codec, rows[t], scales_of(t), head_dim, out);
        else
            std::fill_n(out, head_dim, 0.0f);
    }
};

template <int kScales>
void read_plain_scales(const std::uint16_t* scales, float* out) {
    for (std::int64_t t = 0; t < kTile; ++t) {
        KEPT_UNROLL_ALL
        for (int g = 0; g < kScales; ++g)
            out[g * kTile + t] = bf16_to_float(scales[t * kScales + g]);
    }
}

// Scales (scales, 64) of a tile's tokens, 0 of those that are not seen.
inline void read_scales(const TileRows& from, float* out) {
    if (from.plain && from.scales == 1) return read_plain_scales<1>(from.scales_of(0), out);
    if (from.plain && from.scales == 2) return read_plain_scales<2>(from.scales_of(0), out);
    if (from.plain && from.scales == 4) return read_plain_scales<4>(from.scales_of(0), out);
    for (std::int64_t g = 0; g < from.scales; ++g)
        for (std::int64_t t = 0; t < kTile; ++t)
            out[g * kTile + t] = holds(from.seen, t) ? bf16_to_float(from.scales_of(t)[g]) : 0.0f;
}

// Keys of a tile as pairs of elements down, tokens across: (halves, padded / 2, 32 tokens) pairs.
// Where the pairs of element `d` of token `t` go.
inline std::byte* key_pairs(std::byte* out, std::int64_t padded, std::int64_t t, std::int64_t d) {
    return out + (t / kPanel * (padded / 2) + d / 2) * kStepBytes + t % kPanel * 4;
}

template <class Row, bool kWhole>
void expand_keys(const std::byte* const* from, std::int64_t first, std::int64_t last,
                 std::int64_t head_dim, std::int64_t padded, std::byte* out) {
    for (std::int64_t t = 0; t < kTile; t += W)
        for (std::int64_t d = first; d < last; d += 2 * W) {
            vb rows[W];
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i)
                rows[i] = Row::template read<kWhole>(from[t + i], d, head_dim);
            transpose(rows);
            std::byte* to = key_pairs(out, padded, t, d);
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) store_pairs(to + i * kStepBytes, rows[i]);
        }
}

// The same of int8 keys, transposed as words of four codes, which are half as many, and then
// widened. Returns how many elements, from the first on, it has done: those that fill vectors.
inline std::int64_t expand_int8_keys(const std::byte* const* from, std::int64_t head_dim,
                                     std::int64_t padded, std::byte* out) {
    const std::int64_t done = head_dim / (4 * W) * (4 * W);
    for (std::int64_t t = 0; t < kTile; t += W)
        for (std::int64_t d = 0; d < done; d += 4 * W) {
            vb rows[W];
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) rows[i] = load_pairs(from[t + i] + d);
            transpose(rows);
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) {
                const Int8Codes codes(order_int8(rows[i]), kInt8Tables);
                for (int u = 0; u < 2; ++u)
                    store_pairs(key_pairs(out, padded, t, d + 4 * i + 2 * u), codes.unit(u));
            }
        }
    return done;
}

// Values of a tile as pairs of tokens down, elements across: (padded / 32, 32, 32 elements) pairs.
template <class Row, bool kWhole>
void expand_values(const std::byte* const* from, std::int64_t first, std::int64_t last,
                   std::int64_t head_dim, std::byte* out) {
    for (std::int64_t d = first; d < last; d += 2 * W) {
        std::byte* to[2];
        for (int i = 0; i < 2; ++i) {
            const std::int64_t at = d + i * W;
            to[i] = out + at / kPanel * (kTile / 2) * kStepBytes + at % kPanel * 4;
        }
        for (std::int64_t t = 0; t < kTile; t += 2) {
            vb pairs[2];
            if constexpr (kWhole)
                Row::zip(from[t], from[t + 1], d, pairs);
            else
                zip_rows(Row::template read<false>(from[t], d, head_dim),
                         Row::template read<false>(from[t + 1], d, head_dim), pairs);
            for (int i = 0; i < 2; ++i) store_pairs(to[i] + t / 2 * kStepBytes, pairs[i]);
        }
    }
}

template <class Row>
void expand_rows(const std::byte* const* from, bool are_keys, std::int64_t head_dim,
                 std::int64_t padded, std::byte* out) {
    const std::int64_t whole = head_dim / (2 * W) * (2 * W);
    if (are_keys) {
        std::int64_t done = 0;
        if constexpr (std::is_same_v<Row, Int8Row>)
            done = expand_int8_keys(from, head_dim, padded, out);
        expand_keys<Row, true>(from, done, whole, head_dim, padded, out);
        expand_keys<Row, false>(from, whole, padded, head_dim, padded, out);
    } else {
        expand_values<Row, true>(from, 0, whole, head_dim, out);
        expand_values<Row, false>(from, whole, padded, head_dim, out);
    }
}

inline void expand_codes(const TileRows& from, bool are_keys, std::int64_t padded, std::byte* out) {
    switch (from.stored.codec) {
        case Codec::int8:
            return expand_rows<Int8Row>(from.rows, are_keys, from.head_dim, padded, out);
        case Codec::int4:
            return expand_rows<Int4Row>(from.rows, are_keys, from.head_dim, padded, out);
        default:
            return expand_rows<Bf16Row>(from.rows, are_keys, from.head_dim, padded, out);
    }
}

inline void expand_float_keys(const TileRows& from, std::int64_t padded, float* out) {
    alignas(64) float x[W][kMaxHeadDim];
    for (std::int64_t t = 0; t < kTile; t += W) {
        for (int i = 0; i < W; ++i) {
            std::fill_n(x[i], padded, 0.0f);
            from.floats(t + i, x[i]);
        }
        for (std::int64_t d = 0; d < padded; d += W) {
            vb rows[W];
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) rows[i] = load_pairs(x[i] + d);
            transpose(rows);
            float* to = out + ((t / kPanel) * padded + d) * kPanel + t % kPanel;
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) store_pairs(to + i * kPanel, rows[i]);
        }
    }
}

inline void expand_float_values(const TileRows& from, std::int64_t padded, float* out) {
    alignas(64) float x[kMaxHeadDim];
    std::fill_n(x, padded, 0.0f);
    for (std::int64_t t = 0; t < kTile; ++t) {
        from.floats(t, x);
        for (std::int64_t d = 0; d < padded; d += kPanel)
            std::memcpy(out + (d / kPanel * kTile + t) * kPanel, x + d, 4 * kPanel);
    }
}

}  // namespace kept::KEPT_NS
