// Rows of activations to codes and scales. src/kept/ops/integer_products.py is the specification;
// every step is the same here, so that codes and scales are equal bit for bit.
#pragma once

#include <algorithm>

#include "code_rows.h"
#include "quads.h"

namespace kept::KEPT_NS {

// Below this a group's numbers count as zeros: 127 divided by them would leave the range of floats.
constexpr float kSmallest = 0x1p-100f;

struct CodeScale {
    float scale, inverse;
};

inline CodeScale scale_of(const float* x, std::int64_t count) {
    vf largest = zero(), strange = zero();
    for (std::int64_t i = 0; i < count; i += W) {
        const vf here = load(x + i);
        largest = max(largest, abs(here));
        strange = add(strange, sub(here, here));  // NaN from a number that is not finite
    }
    if (any_nan(strange)) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
    const float most = reduce_max(largest);
    if (most < kSmallest) return {0.0f, 0.0f};
    return {most / 127.0f, 127.0f / most};
}

// Codes of whole groups of 32 numbers; returns their sum.
inline std::int32_t put_codes(const float* x, std::int64_t count, float inverse,
                              std::int8_t* codes) {
    if (inverse == 0) {
        std::memset(codes, 0, static_cast<std::size_t>(count));
        return 0;
    }
    const vf by = set1(inverse), rounding = set1(kRounding);
    vf sum = zero();
    for (std::int64_t i = 0; i < count; i += W) {
        const vf rounded = add(mul(load(x + i), by), rounding);
        sum = add(sum, sub(rounded, rounding));
        store_codes(codes + i, rounded);
    }
    return static_cast<std::int32_t>(reduce_add(sum));
}

void encode_rows(const EncodeRowsArgs& args, std::int64_t first_row, std::int64_t last_row) {
    const CodeRows& out = args.out;
    const std::int64_t span = out.span();
    for (std::int64_t row = first_row; row < last_row; ++row) {
        const float* x = args.x + row * args.x_stride;
        std::int8_t* codes = out.codes(row);
        for (std::int64_t at = 0; at < out.width; at += kCodeGroup) {
            const std::int64_t end = std::min<std::int64_t>(at + kCodeGroup, out.width);
            const CodeScale found = scale_of(x + at, end - at);
            out.scales(row)[at / kCodeGroup] = found.scale;
            for (std::int64_t i = at; i < end; i += span) {
                const std::int64_t count = std::min(span, end - i);
                out.starts(row)[i / span] =
                    -kWeightOffset * put_codes(x + i, count, found.inverse, codes + i);
            }
        }
        if (out.for_int4)
            for (std::int64_t i = 0; i < out.width; i += kGroup) order_for_int4(codes + i);
    }
}

}  // namespace kept::KEPT_NS
