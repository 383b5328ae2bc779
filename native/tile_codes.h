// A tile of stored keys or values, expanded once from whatever codec to the operands of
// tile_products.h. int8 and int4 codes stay as they are; their scales are read apart.
//
//   keys     (inputs of a step, 64 tokens)     a step is two elements of a head, or a float
//   values   (inputs of a step, padded D)      a step is two tokens, or one
#pragma once

#include <algorithm>
#include <cstring>

#include "codecs.h"
#include "codes.h"
#include "place.h"
#include "sight.h"
#include "tile_products.h"

namespace kept::KEPT_NS {

// Zeros in place of tokens that no query of a unit sees: what lies there may be another token's, or
// nothing.
alignas(64) inline constexpr std::byte kNothing[4 * kMaxHeadDim] = {};

// Where the codes of a tile's tokens lie, whose entries follow each other: of the first `head_dim`
// of the numbers that are stored of each.
struct TileRows {
    const Stored& stored;
    TokenSet seen;
    std::int64_t head_dim, scales;
    std::int64_t bytes, scales_apart;  // from one token to the next
    bool plain;                        // all of them are seen
    std::int64_t entry;                // of the first
    const std::byte* rows[kTile];      // of a token not in `seen`: zeros

    TileRows(const Stored& from, const BlockEntries& where, std::int64_t width,
             std::int64_t stored_width, std::int64_t token, TokenSet tokens)
        : stored(from),
          seen(tokens),
          head_dim(width),
          scales(num_scales(from.codec, width)),
          bytes(code_bytes(from.codec, stored_width)),
          scales_apart(num_scales(from.codec, stored_width)),
          plain(seen == ~TokenSet{0}),
          entry(where.of(token)) {
        const std::byte* row = from.codes + entry * bytes;
        for (std::int64_t t = 0; t < kTile; ++t, row += bytes) rows[t] = row;
        if (plain) return;
        for (std::int64_t t = 0; t < kTile; ++t)
            if (!holds(seen, t)) rows[t] = kNothing;
    }

    // Of all of them as they lie, seen or not.
    const std::byte* first_row() const { return stored.codes + entry * bytes; }
    const std::uint16_t* scales_of(std::int64_t t) const {
        return stored.scales + (entry + t) * scales_apart;
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
void read_plain_scales(const std::uint16_t* scales, float factor, float* out) {
    for (std::int64_t t = 0; t < kTile; ++t) {
        KEPT_UNROLL_ALL
        for (int g = 0; g < kScales; ++g)
            out[g * kTile + t] = bf16_to_float(scales[t * kScales + g]) * factor;
    }
}

// Scales (scales, 64) of a tile's tokens times `factor`, 0 of those that are not seen.
inline void read_scales(const TileRows& from, float factor, float* out) {
    const std::uint16_t* first = from.scales_of(0);
    const bool plain = from.plain && from.scales == from.scales_apart;
    if (plain && from.scales == 1) return read_plain_scales<1>(first, factor, out);
    if (plain && from.scales == 2) return read_plain_scales<2>(first, factor, out);
    if (plain && from.scales == 4) return read_plain_scales<4>(first, factor, out);
    for (std::int64_t g = 0; g < from.scales; ++g)
        for (std::int64_t t = 0; t < kTile; ++t)
            out[g * kTile + t] =
                holds(from.seen, t) ? bf16_to_float(from.scales_of(t)[g]) * factor : 0.0f;
}

// Elements of a head, a multiple of what is transposed at once.
template <class Of, class Code>
void expand_keys(const std::byte* const* rows, std::int64_t dims, std::byte* out) {
    constexpr int kDims = Code::kWords * Code::kInWord;
    for (std::int64_t d = 0; d < dims; d += kDims)
        for (std::int64_t t = 0; t < kTile; t += W) {
            vb words[Code::kWords];
            load_words<Code>(rows + t, d, words);
            std::byte* to = out + d / Of::kKeyInputs * kKeyStep + t * 4;
            KEPT_UNROLL_ALL
            for (int i = 0; i < Code::kWords; ++i) {
                if constexpr (kWidens<Of>) {
                    store_pairs(to, words[i]);
                    to += kKeyStep;
                    continue;
                }
                constexpr int kSteps = Code::kInWord / Of::kInputs;
                typename Of::Vector x[kSteps];
                split<Of, Code>(words[i], x);
                KEPT_UNROLL_ALL
                for (int step = 0; step < kSteps; ++step, to += kKeyStep) Of::write(to, x[step]);
            }
        }
}

template <class Of, class Code>
void expand_values(const std::byte* const* rows, std::int64_t padded, std::byte* out) {
    for (std::int64_t t = 0; t < kTile; t += Of::kInputs, out += padded * 4) {
        if constexpr (Of::kPairs) {
            for (std::int64_t d = 0; d < padded; d += 2 * W) {
                vb pairs[2];
                Code::zip(rows[t], rows[t + 1], d, pairs);
                store_pairs(out + d * 4, pairs[0]);
                store_pairs(out + (d + W) * 4, pairs[1]);
            }
        } else {
            for (std::int64_t d = 0; d < padded; d += W)
                store(reinterpret_cast<float*>(out) + d, Code::read(rows[t], d));
        }
    }
}

// The rows themselves where they hold that many elements, else copies that do: what comes behind
// the head meets zeros of the queries, or is not looked at.
template <class Code>
const std::byte* const* reach(const TileRows& from, std::int64_t dims, std::byte* staged,
                              const std::byte** copies) {
    if (dims == from.head_dim) return from.rows;
    const std::int64_t bytes = dims / Code::kInWord * 4;
    const std::int64_t own = code_bytes(from.stored.codec, from.head_dim);
    for (std::int64_t t = 0; t < kTile; ++t, staged += bytes) {
        std::memcpy(staged, from.rows[t], static_cast<std::size_t>(own));
        std::memset(staged + own, 0, static_cast<std::size_t>(bytes - own));
        copies[t] = staged;
    }
    return copies;
}

template <class Of, class Code>
void expand_rows(const TileRows& from, bool are_keys, std::byte* staged, std::byte* out) {
    const std::byte* copies[kTile];
    const std::int64_t padded = round_up(from.head_dim, kPanel);
    const std::int64_t dims = are_keys ? round_up(padded, Code::kWords * Code::kInWord) : padded;
    const std::byte* const* rows = reach<Code>(from, dims, staged, copies);
    if (are_keys)
        expand_keys<Of, Code>(rows, dims, out);
    else
        expand_values<Of, Code>(rows, dims, out);
}

// Calls f with a codec of codes.h: that of a tile which is not of floats.
template <class F>
KEPT_INLINE void with_code(const TileRows& of, const F& f) {
    switch (of.stored.codec) {
        case Codec::int8:
            return f(Int8Code{});
        case Codec::int4:
            return f(Int4Code{});
        default:
            return f(Bf16Code{});
    }
}

template <class F>
KEPT_INLINE void with_float_code(const TileRows& of, const F& f) {
    if (of.stored.codec == Codec::fp16) return f(Fp16Code{});
    f(Fp32Code{});
}

// The same of keys and values as floats, scaled: of what stands apart from its scales, or does not
// fill vectors.
inline void expand_float_keys(const TileRows& from, std::int64_t padded, float* out) {
    alignas(64) float x[W][kMaxHeadDim + W];  // rows in different sets of the nearest cache
    for (std::int64_t t = 0; t < kTile; t += W) {
        const std::byte* rows[W];
        for (int i = 0; i < W; ++i) {
            std::fill_n(x[i], padded, 0.0f);
            from.floats(t + i, x[i]);
            rows[i] = reinterpret_cast<const std::byte*>(x[i]);
        }
        for (std::int64_t d = 0; d < padded; d += W) {
            vb words[W];
            load_words<Fp32Code>(rows, d, words);
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) store_pairs(out + (d + i) * kTile + t, words[i]);
        }
    }
}

inline void expand_float_values(const TileRows& from, std::int64_t padded, float* out) {
    for (std::int64_t t = 0; t < kTile; ++t, out += padded) {
        std::fill_n(out, padded, 0.0f);
        from.floats(t, out);
    }
}

template <class Of>
void expand(const TileRows& from, bool are_keys, std::int64_t padded, std::byte* staged,
            std::byte* out) {
    if constexpr (kWidens<Of>)
        expand_rows<Of, Bf16Code>(from, are_keys, staged, out);  // codes are multiplied as they are
    else if constexpr (Of::kRounds)
        with_code(from,
                  [&](auto code) { expand_rows<Of, decltype(code)>(from, are_keys, staged, out); });
    else if (is_float(from.stored.codec) && from.head_dim == padded)
        with_float_code(
            from, [&](auto code) { expand_rows<Of, decltype(code)>(from, are_keys, staged, out); });
    else if (are_keys)
        expand_float_keys(from, padded, reinterpret_cast<float*>(out));
    else
        expand_float_values(from, padded, reinterpret_cast<float*>(out));
}

}  // namespace kept::KEPT_NS
