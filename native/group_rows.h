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
    for (int i = 0; i < kGroup; i += 2 * W) {
        const EvenOdd a = even_odd(x + i);
        const auto even = reinterpret_cast<LaneBits>(rounded_to_unit(a.even, rounder));
        const auto odd = reinterpret_cast<LaneBits>(rounded_to_unit(a.odd, rounder));
        store_pairs(out + i, reinterpret_cast<vb>(even >> 16 | odd));
    }
}

// Rows [row, row + rows) of a layer's over inputs [input, input + num_inputs), to (groups, places,
// 32); places that are more than rows stay as they are.
inline void make_multiples(const ActRows& from, std::int64_t row, std::int64_t rows,
                           std::int64_t input, std::int64_t num_inputs, int bits,
                           std::int64_t places, std::uint16_t* out) {
    const auto* x = static_cast<const std::uint16_t*>(from.data) + row * from.stride + input;
    for (std::int64_t i = 0; i < num_inputs; i += kGroup, out += places * kGroup)
        for (std::int64_t first = 0; first < rows; first += W) {
            const std::int64_t count = std::min<std::int64_t>(W, rows - first);
            const std::uint16_t* const numbers = x + first * from.stride + i;
            GroupUnits found;
            units_of(numbers, from.stride, count, bits, found);
            for (std::int64_t r = 0; r < count; ++r)
                put_multiples(numbers + r * from.stride, found.of(r), out + (first + r) * kGroup);
        }
}

}  // namespace kept::KEPT_NS
