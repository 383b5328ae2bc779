// Rows of bf16 as whole numbers, for weights of 4 bits where no tiles multiply bf16: 16 bits each,
// in units that 32 inputs share.
//
// The unit is a power of 2, 2^-14 of that of a group's largest number: what is at least 2^-7 of the
// largest is held exactly, as a bf16 has 8 bits, and the rest to within half a unit, which is at
// most 2^-15 of the largest.
//
// A row lies in one piece, its parts one behind the other:
//
//   codes    int16, an input each
//   units    a float for each group of 32 inputs; NaN where one of them is not finite
//   starts   an int32 for each group: what its sums begin with, for weights kWeightOffset too large
#pragma once

#include <algorithm>

#include "code_rows.h"
#include "kernels.h"
#include "level_words.h"
#include "simd.h"

namespace kept::KEPT_NS {

struct FixedRows {
    std::byte* data = nullptr;
    std::int64_t width = 0;  // inputs, padded to 32

    std::int64_t num_groups() const { return width / kGroup; }
    // Bytes from one row to the next: whole cache lines.
    std::int64_t stride() const { return round_up(2 * width + 8 * num_groups(), 64); }
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

struct FixedUnit {
    float unit, inverse;
};

// Of 32 numbers. Where the unit would be no normal number it is the least of them.
inline FixedUnit unit_of(const std::uint16_t* x) {
    vf largest = zero(), strange = zero();
    for (int i = 0; i < kGroup; i += W) {
        const vf here = load_bf16(x + i);
        largest = max(largest, abs(here));
        strange = add(strange, sub(here, here));  // NaN from a number that is not finite
    }
    if (any_nan(strange)) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
    constexpr std::uint32_t kLeast = 15 << 23, kSteps = 14 << 23, kTwice = 254u << 23;
    const std::uint32_t power = float_to_bits(reduce_max(largest)) & 0x7f800000u;
    const std::uint32_t unit = std::max(power, kLeast) - kSteps;
    return {bits_to_float(unit), bits_to_float(kTwice - unit)};
}

// Codes of 32 numbers; returns their sum.
inline std::int32_t put_whole(const std::uint16_t* x, const FixedUnit& found, std::int16_t* codes) {
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

// Rows [row, row + rows) of a layer's, in units times `factor`, a power of 2.
inline void make_fixed(const ActRows& from, std::int64_t row, std::int64_t rows, float factor,
                       const FixedRows& out) {
    for (std::int64_t r = 0; r < rows; ++r) {
        const auto* x = static_cast<const std::uint16_t*>(from.data) + (row + r) * from.stride;
        for (std::int64_t at = 0; at < out.width; at += kGroup) {
            const FixedUnit found = unit_of(x + at);
            out.units(r)[at / kGroup] = found.unit * factor;
            out.starts(r)[at / kGroup] =
                -kWeightOffset * put_whole(x + at, found, out.codes(r) + at);
        }
    }
}

}  // namespace kept::KEPT_NS
