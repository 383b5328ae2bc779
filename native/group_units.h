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

#include "across_lanes.h"
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

// Units and inverses of W groups, side by side.
struct GroupUnits {
    float unit[W], inverse[W];

    GroupUnit of(std::int64_t group) const { return {unit[group], inverse[group]}; }
};

// 2 W numbers of bf16 as floats.
struct EvenOdd {
    vf even, odd;
};

typedef std::uint32_t LaneBits __attribute__((vector_size(4 * W)));

KEPT_INLINE EvenOdd even_odd(const std::uint16_t* p) {
    const auto pairs = reinterpret_cast<LaneBits>(load_pairs(p));
    return {reinterpret_cast<vf>(pairs << 16), reinterpret_cast<vf>(pairs & 0xffff0000u)};
}

// Of W groups, `stride` numbers from one to the next, what `combine` makes of all numbers of each,
// as f(numbers, group) has them.
template <class F, class Combine>
KEPT_INLINE vf of_groups(const std::uint16_t* x, std::int64_t stride, std::int64_t count,
                         const F& f, const Combine& combine) {
    vf found[W];
    for (std::int64_t g = 0; g < W; ++g) {
        // Of fewer the last stands for those that are missing.
        const std::uint16_t* const from = x + std::min(g, count - 1) * stride;
        for (int i = 0; i < kGroup; i += 2 * W) {
            const EvenOdd a = even_odd(from + i);
            const vf here = combine(f(a.even, g), f(a.odd, g));
            found[g] = i == 0 ? here : combine(found[g], here);
        }
    }
    return across(found, combine);
}

// Of up to W groups, `stride` numbers from one to the next. None is below the least normal number,
// also halved. There is none where a number is not finite, or so large that sums might not be.
inline void units_of(const std::uint16_t* x, std::int64_t stride, std::int64_t count, int bits,
                     GroupUnits& out) {
    constexpr std::uint32_t kLeast = 16 * kOnePower, kMost = (127 + 116) * kOnePower;
    constexpr std::uint32_t kExponent = 255 * kOnePower, kTwice = 254 * kOnePower;
    std::uint32_t units[W];
    float largest[W], rounders[W], sums[W];
    store(largest, of_groups(
                       x, stride, count, [](vf a, std::int64_t) { return abs(a); },
                       [](vf a, vf b) { return max(a, b); }));
    for (int g = 0; g < W; ++g) {
        units[g] =
            std::clamp(float_to_bits(largest[g]) & kExponent, kLeast, kMost) - 14 * kOnePower;
        rounders[g] = rounder_of(units[g]);
    }
    // Whole numbers of units below 2^24: the same sums in any order.
    store(sums,
          of_groups(
              x, stride, count,
              [&](vf a, std::int64_t g) { return rounded_to_unit(abs(a), set1(rounders[g])); },
              [](vf a, vf b) { return add(a, b); }));
    for (int g = 0; g < W; ++g) {
        const std::uint32_t power = float_to_bits(largest[g]) & kExponent;
        const std::uint32_t size = float_to_bits(sums[g]) & kExponent;
        const std::uint32_t enough = units[g] + static_cast<std::uint32_t>(bits) * kOnePower;
        const std::uint32_t unit = units[g] + (size >= enough ? size - enough + kOnePower : 0);
        const bool has_none = power >= kMost || size == kExponent;
        out.unit[g] = has_none ? kNoUnit.unit : bits_to_float(unit);
        out.inverse[g] = has_none ? kNoUnit.inverse : bits_to_float(kTwice - unit);
    }
}

}  // namespace kept::KEPT_NS
