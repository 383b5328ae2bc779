// Rows of activations to codes and scales. src/kept/ops/integer_products.py is the specification;
// every step is the same here, so that codes and scales are equal bit for bit.
#pragma once

#include <algorithm>

#include "across_lanes.h"
#include "code_rows.h"
#include "quads.h"

namespace kept::KEPT_NS {

// Below this a group's numbers count as zeros: 127 divided by them would leave the range of floats.
constexpr float kSmallest = 0x1p-100f;
static_assert(kCodeGroup == kGroup, "rows are whole groups, and a span is one");

struct CodeScales {
    float scale[W], inverse[W];
};

// Of up to W groups of 32 numbers, one behind the other.
inline void scales_of(const float* x, std::int64_t count, CodeScales& out) {
    vf sizes[W], oddities[W];
    for (std::int64_t g = 0; g < W; ++g) {
        // Of fewer the last stands for those that are missing.
        const float* const from = x + std::min(g, count - 1) * kGroup;
        vf largest = zero(), strange = zero();
        for (int i = 0; i < kGroup; i += W) {
            const vf here = load(from + i);
            largest = max(largest, abs(here));
            strange = add(strange, sub(here, here));  // NaN from a number that is not finite
        }
        sizes[g] = largest, oddities[g] = strange;
    }
    float most[W], strange[W];
    store(most, across(sizes, [](vf a, vf b) { return max(a, b); }));
    store(strange, across(oddities, [](vf a, vf b) { return add(a, b); }));
    for (int g = 0; g < W; ++g) {
        const bool is_finite = strange[g] == 0, is_some = is_finite && most[g] >= kSmallest;
        out.scale[g] = is_some     ? most[g] / 127.0f
                       : is_finite ? 0.0f
                                   : std::numeric_limits<float>::quiet_NaN();
        out.inverse[g] = is_some ? 127.0f / most[g] : 0.0f;
    }
}

// Codes of a group; returns what their sum is made of.
inline vf put_codes(const float* x, float inverse, std::int8_t* codes) {
    vf sum = zero();
    if (inverse == 0) {
        std::memset(codes, 0, kGroup);
        return sum;
    }
    const vf by = set1(inverse), rounding = set1(kRounding);
    for (int i = 0; i < kGroup; i += W) {
        const vf rounded = add(mul(load(x + i), by), rounding);
        sum = add(sum, sub(rounded, rounding));
        store_codes(codes + i, rounded);
    }
    return sum;
}

// Up to W groups of a row.
inline void encode_groups(const float* x, std::int64_t count, std::int8_t* codes, float* scales,
                          std::int32_t* starts) {
    CodeScales found;
    scales_of(x, count, found);
    vf parts[W];
    float sums[W];
    for (std::int64_t g = 0; g < W; ++g)
        parts[g] =
            g < count ? put_codes(x + g * kGroup, found.inverse[g], codes + g * kGroup) : zero();
    store(sums, across(parts, [](vf a, vf b) { return add(a, b); }));
    for (std::int64_t g = 0; g < count; ++g) {
        scales[g] = found.scale[g];
        starts[g] = -kWeightOffset * static_cast<std::int32_t>(sums[g]);
    }
}

void encode_rows(const EncodeRowsArgs& args, std::int64_t first_row, std::int64_t last_row) {
    const CodeRows& out = args.out;
    for (std::int64_t row = first_row; row < last_row; ++row) {
        const float* x = args.x + row * args.x_stride;
        std::int8_t* codes = out.codes(row);
        for (std::int64_t g = 0; g < out.num_groups(); g += W)
            encode_groups(x + g * kGroup, std::min<std::int64_t>(W, out.num_groups() - g),
                          codes + g * kGroup, out.scales(row) + g, out.starts(row) + g);
        if (out.for_int4)
            for (std::int64_t i = 0; i < out.width; i += kGroup) order_for_int4(codes + i);
    }
}

}  // namespace kept::KEPT_NS
