// Rows of bf16 as whole numbers of 16 bits (group_units.h), for weights of 4 bits.
//
// A row lies in one piece, its parts one behind the other:
//
//   codes    int16, an input each
//   units    a float for each group of 32 inputs; NaN where one of them is not finite
//   starts   an int32 for each group: what its sums begin with, for weights kWeightOffset too large
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "code_rows.h"
#include "group_units.h"
#include "kernels.h"
#include "level_words.h"

namespace kept::KEPT_NS {

struct FixedRows {
    std::byte* data = nullptr;
    std::int64_t width = 0;  // inputs, padded to 32

    constexpr std::int64_t num_groups() const { return width / kGroup; }
    // Bytes from one row to the next: whole cache lines.
    constexpr std::int64_t stride() const { return round_up(2 * width + 8 * num_groups(), 64); }
    std::int16_t* codes(std::int64_t row) const {
        return reinterpret_cast<std::int16_t*>(data + row * stride());
    }
    float* units(std::int64_t row) const {
        return reinterpret_cast<float*>(data + row * stride() + 2 * width);
    }
    std::int32_t* starts(std::int64_t row) const {
        return reinterpret_cast<std::int32_t*>(units(row) + num_groups());
    }
};

// Codes of 32 numbers; returns what their sum is made of.
inline vf put_whole(const std::uint16_t* x, const GroupUnit& found, std::int16_t* codes) {
    vf sum = zero();
    if (found.inverse == 0) {
        std::memset(codes, 0, kGroup * sizeof *codes);
        return sum;
    }
    const vf inverse = set1(found.inverse), rounding = set1(kRounding);
    for (int i = 0; i < kGroup; i += 2 * W) {
        const EvenOdd a = even_odd(x + i);
        const vf even = add(mul(a.even, inverse), rounding);
        const vf odd = add(mul(a.odd, inverse), rounding);
        const auto low = reinterpret_cast<LaneBits>(even) & 0xffffu;
        store_pairs(codes + i, reinterpret_cast<vb>(low | reinterpret_cast<LaneBits>(odd) << 16));
        sum = add(sum, add(sub(even, rounding), sub(odd, rounding)));
    }
    return sum;
}

// Up to W groups of a row.
inline void put_whole_groups(const std::uint16_t* x, std::int64_t count, const GroupUnits& found,
                             float factor, std::int16_t* codes, float* units,
                             std::int32_t* starts) {
    vf parts[W];
    float sums[W];
    for (std::int64_t g = 0; g < W; ++g)
        parts[g] = g < count ? put_whole(x + g * kGroup, found.of(g), codes + g * kGroup) : zero();
    // Exact, as is all that is less than 2^24.
    store(sums, across(parts, [](vf a, vf b) { return add(a, b); }));
    for (std::int64_t g = 0; g < count; ++g) {
        units[g] = found.unit[g] * factor;
        starts[g] = -kWeightOffset * static_cast<std::int32_t>(sums[g]);
    }
}

// Rows [row, row + rows) of a layer's, groups below 2^bits units, and units times `factor`, a power
// of 2.
inline void make_fixed(const ActRows& from, std::int64_t row, std::int64_t rows, int bits,
                       float factor, const FixedRows& out) {
    for (std::int64_t r = 0; r < rows; ++r) {
        const auto* x = static_cast<const std::uint16_t*>(from.data) + (row + r) * from.stride;
        for (std::int64_t first = 0; first < out.num_groups(); first += W) {
            const std::int64_t count = std::min<std::int64_t>(W, out.num_groups() - first);
            GroupUnits found;
            units_of(x + first * kGroup, kGroup, count, bits, found);
            put_whole_groups(x + first * kGroup, count, found, factor,
                             out.codes(r) + first * kGroup, out.units(r) + first,
                             out.starts(r) + first);
        }
    }
}

}  // namespace kept::KEPT_NS
