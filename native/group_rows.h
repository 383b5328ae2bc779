// Rows of bf16 rounded to multiples of their groups' units (group_units.h), as matrix tiles read
// them.
#pragma once

#include <algorithm>

#include "group_units.h"
#include "kernels.h"

namespace kept::KEPT_NS {

// 32 numbers as the nearest multiples of their unit, which are bf16 too; NaN where there is none.
inline void put_multiples(const std::uint16_t* x, const GroupUnit& found, std::uint16_t* out) {
    constexpr std::uint16_t kNaN = 0x7fc0;
    if (found.inverse == 0) {
        std::fill_n(out, kGroup, kNaN);
        return;
    }
    const vf rounder = set1(rounder_of(float_to_bits(found.unit)));
    for (int i = 0; i < kGroup; i += W)
        store_bf16(out + i, rounded_to_unit(load_bf16(x + i), rounder));
}

// Rows [row, row + rows) of a layer's over inputs [input, input + num_inputs), to (groups, places,
// 32); places that are more than rows stay as they are.
inline void make_multiples(const ActRows& from, std::int64_t row, std::int64_t rows,
                           std::int64_t input, std::int64_t num_inputs, int bits,
                           std::int64_t places, std::uint16_t* out) {
    for (std::int64_t r = 0; r < rows; ++r) {
        const auto* x = static_cast<const std::uint16_t*>(from.data) + (row + r) * from.stride;
        with_units(
            x + input, num_inputs / kGroup, bits, [&](std::int64_t g, const GroupUnit& found) {
                put_multiples(x + input + g * kGroup, found, out + (g * places + r) * kGroup);
            });
    }
}

}  // namespace kept::KEPT_NS
