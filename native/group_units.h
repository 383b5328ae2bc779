// Rows of bf16 as whole numbers, for weights of 4 bits: in units that 32 inputs share, and few
// enough of them that a group's products with the levels add up without a rounding. So the sums
// are the same in any order, as int32 or on tiles as floats.
//
// The unit is a power of 2, 2^-14 of that of a group's largest number, or up to 8 times as much
// where the group would come to 2^code_bits() units or more. What is at least 2^7 units is a
// multiple of one, as a bf16 has 8 bits; the rest is rounded to one. No unit is below 2^-125: tiles
// take subnormal numbers for zero, and products come in halves of a unit.
#pragma once

#include <algorithm>
#include <limits>

#include "layout.h"
#include "simd.h"

namespace kept::KEPT_NS {

// Times the largest level, 127, and in whole numbers 8 and 12 of the others, at most 2^24: what a
// float holds exactly. Rounding adds half a unit for each of 32 numbers at most, twice.
constexpr int code_bits(Format format) {
    return format == Format::int4 ? 17 : 20;
}
static_assert(((1 << code_bits(Format::int4)) + kGroup) * 127 <= 1 << 24);
static_assert((1 << code_bits(Format::mxfp4)) * 12 <= 1 << 24);
static_assert((1 << code_bits(Format::q4_0)) * 8 <= 1 << 24);
static_assert(kGroup * (255 << 7) < 1 << code_bits(Format::q4_0), "units are never larger");

struct GroupUnit {
    float unit, inverse;  // the unit is NaN, and its inverse 0, where there is none
};

constexpr GroupUnit kNoUnit = {std::numeric_limits<float>::quiet_NaN(), 0.0f};
constexpr std::uint32_t kOnePower = 1u << 23;  // of 2, in the bits of a float

// Added to a number below 2^22 units and taken away again it leaves the nearest whole number of
// them, and of two the even one.
inline float rounder_of(std::uint32_t unit) {
    return bits_to_float(unit + 23 * kOnePower + kOnePower / 2);
}
KEPT_INLINE vf rounded_to_unit(vf x, vf rounder) {
    return sub(add(x, rounder), rounder);
}

// Of each vector what `combine` makes of its lanes, side by side.
template <class Combine>
KEPT_INLINE vf across(vb (&rows)[W], const Combine& combine) {
    transpose(rows);
    vf x[W];
    for (int i = 0; i < W; ++i) x[i] = reinterpret_cast<vf>(rows[i]);
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) x[i] = combine(x[i], x[i + half]);
    return x[0];
}

// Of up to W groups, one behind the other. None is below the least normal number, also halved.
// There is none where a number is not finite, or so large that sums might not be.
inline void units_of(const std::uint16_t* x, std::int64_t count, int bits, GroupUnit* out) {
    constexpr std::uint32_t kLeast = 16 * kOnePower, kMost = (127 + 116) * kOnePower;
    constexpr std::uint32_t kExponent = 255 * kOnePower, kTwice = 254 * kOnePower;
    vb rows[W];
    std::uint32_t units[W];
    float largest[W], sums[W];
    for (std::int64_t g = 0; g < W; ++g) {
        vf here = zero();
        for (int i = 0; g < count && i < kGroup; i += W)
            here = max(here, abs(load_bf16(x + g * kGroup + i)));
        rows[g] = reinterpret_cast<vb>(here);
    }
    store(largest, across(rows, [](vf a, vf b) { return max(a, b); }));
    for (std::int64_t g = 0; g < W; ++g) {
        const std::uint32_t power = float_to_bits(largest[g]) & kExponent;
        units[g] = std::clamp(power, kLeast, kMost) - 14 * kOnePower;
        vf sum = zero();
        const vf rounder = set1(rounder_of(units[g]));
        for (int i = 0; g < count && i < kGroup; i += W)
            sum = add(sum, rounded_to_unit(abs(load_bf16(x + g * kGroup + i)), rounder));
        rows[g] = reinterpret_cast<vb>(sum);
    }
    // Whole numbers of units below 2^24: the same sums in any order.
    store(sums, across(rows, [](vf a, vf b) { return add(a, b); }));
    for (std::int64_t g = 0; g < count; ++g) {
        const std::uint32_t power = float_to_bits(largest[g]) & kExponent;
        const std::uint32_t size = float_to_bits(sums[g]) & kExponent;
        const std::uint32_t enough = units[g] + static_cast<std::uint32_t>(bits) * kOnePower;
        if (size >= enough) units[g] += size - enough + kOnePower;
        const bool has_none = power >= kMost || size == kExponent;
        out[g] = has_none ? kNoUnit
                          : GroupUnit{bits_to_float(units[g]), bits_to_float(kTwice - units[g])};
    }
}

// Calls f(group, unit) for each group of 32 numbers, in ascending order.
template <class F>
void with_units(const std::uint16_t* x, std::int64_t num_groups, int bits, const F& f) {
    for (std::int64_t first = 0; first < num_groups; first += W) {
        const std::int64_t count = std::min<std::int64_t>(W, num_groups - first);
        GroupUnit found[W];
        units_of(x + first * kGroup, count, bits, found);
        for (std::int64_t g = 0; g < count; ++g) f(first + g, found[g]);
    }
}

}  // namespace kept::KEPT_NS
