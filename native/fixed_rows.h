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

// Codes of 32 numbers; returns their sum.
inline std::int32_t put_whole(const std::uint16_t* x, const GroupUnit& found, std::int16_t* codes) {
    if (found.inverse == 0) {
        std::memset(codes, 0, kGroup * sizeof *codes);
        return 0;
    }
    const vf inverse = set1(found.inverse);
    vf sum = zero();
    for (int i = 0; i < kGroup; i += W) {
        const vf whole = round_even(mul(load_bf16(x + i), inverse));
        sum = add(sum, whole);  // exact, as is all that is less than 2^24
        store_words(codes + i, whole);
    }
    return static_cast<std::int32_t>(reduce_add(sum));
}

// Rows [row, row + rows) of a layer's, groups below 2^bits units, and units times `factor`, a power
// of 2.
inline void make_fixed(const ActRows& from, std::int64_t row, std::int64_t rows, int bits,
                       float factor, const FixedRows& out) {
    for (std::int64_t r = 0; r < rows; ++r) {
        const auto* x = static_cast<const std::uint16_t*>(from.data) + (row + r) * from.stride;
        with_units(x, out.num_groups(), bits, [&](std::int64_t g, const GroupUnit& found) {
            out.units(r)[g] = found.unit * factor;
            const std::int32_t sum = put_whole(x + g * kGroup, found, out.codes(r) + g * kGroup);
            out.starts(r)[g] = -kWeightOffset * sum;
        });
    }
}

}  // namespace kept::KEPT_NS
