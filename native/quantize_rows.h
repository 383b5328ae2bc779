// Rows of numbers to 8-bit or 4-bit codes and scales. src/kept/ops/quantize.py is the
// specification, and its comments say why; here every operation and every order of summation is the
// same, so that the results are equal bit for bit whatever the instruction set.
//
// int4 works on W groups side by side, one in each lane, so that sums over a group need no
// shuffles.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace kept::KEPT_NS {

constexpr int kNumLevels = 16;
constexpr float kLowestLevel = -127.0f;
// Twice the middle between a level and the next: whole numbers.
constexpr float kTwiceMiddle[kNumLevels - 1] = {-223, -172, -136, -106, -79, -55, -33, -11,
                                                11,   34,   59,   85,   114, 149, 194};
constexpr float kStepUp[kNumLevels - 1] = {31, 20, 16, 14, 13, 11, 11, 11,
                                           11, 12, 13, 13, 16, 19, 26};

// x, or 1 where x is 0: what is divided by.
inline vf divisor(vf x) {
    return where_less(zero(), abs(x), x, set1(1.0f));
}

inline vf round_to_bf16(vf x) {
    float lanes[W];
    store(lanes, x);
    for (float& lane : lanes) lane = bf16_to_float(float_to_bf16(lane));
    return load(lanes);
}

// Twice x in units of a scale's divisor. A level's code is how many middles lie below.
inline vf doubled(vf x, vf scale_divisor) {
    return div(add(x, x), scale_divisor);
}

inline vf nearest_level(vf x, vf scale_divisor) {
    const vf twice = doubled(x, scale_divisor);
    vf level = set1(kLowestLevel);
    KEPT_UNROLL_ALL
    for (int i = 0; i < kNumLevels - 1; ++i)
        level = add(level, where_less(set1(kTwiceMiddle[i]), twice, set1(kStepUp[i]), zero()));
    return level;
}

inline vf nearest_code(vf x, vf scale_divisor) {
    const vf twice = doubled(x, scale_divisor);
    vf code = zero();
    KEPT_UNROLL_ALL
    for (int i = 0; i < kNumLevels - 1; ++i)
        code = add(code, where_less(set1(kTwiceMiddle[i]), twice, set1(1.0f), zero()));
    return code;
}

// Sums in halves: 32 to 16 to 8 and so on.
inline vf sum_in_halves(vf x[kGroup]) {
    for (int half = kGroup / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) x[i] = add(x[i], x[i + half]);
    return x[0];
}

// The search for W groups' scales. x: number i of every group in x[i].
struct ScaleSearch {
    vf x[kGroup], relative[kGroup];
    vf size;  // divisor of the largest element
    vf best, least;

    vf run() {
        vf high = x[0], low = x[0], squares[kGroup];
        for (int i = 1; i < kGroup; ++i) {
            high = max(high, x[i]);
            low = min(low, x[i]);
        }
        const vf largest = where_less(high, sub(zero(), low), low, high);
        size = divisor(largest);
        for (int i = 0; i < kGroup; ++i) {
            relative[i] = div(x[i], size);
            squares[i] = mul(relative[i], relative[i]);
        }
        best = zero();
        least = sum_in_halves(squares);
        for (const double share : {0.8, 0.9, 1.0})
            for (const int sign : {1, -1})
                attempt(mul(largest, set1(static_cast<float>(sign * share / kLowestLevel))));
        for (int round = 0; round < 2; ++round) {
            vf products[kGroup];
            const vf by = divisor(best);
            for (int i = 0; i < kGroup; ++i) {
                const vf level = nearest_level(x[i], by);
                squares[i] = mul(level, level);
                products[i] = mul(x[i], level);
            }
            const vf square = sum_in_halves(squares);
            attempt(div(sum_in_halves(products), divisor(square)));
        }
        return best;
    }

    void attempt(vf wanted) {
        const vf scale = round_to_bf16(wanted), by = divisor(scale), ratio = div(scale, size);
        vf squares[kGroup];
        for (int i = 0; i < kGroup; ++i) {
            const vf error = sub(relative[i], mul(nearest_level(x[i], by), ratio));
            squares[i] = mul(error, error);
        }
        const vf error = sum_in_halves(squares);
        best = where_less(error, least, scale, best);
        least = where_less(error, least, error, least);
    }
};

// row: (num_groups * 32) floats, zeros behind num_in.
inline void quantize_int4_row(const float* row, std::int64_t num_in, std::int8_t* codes,
                              std::uint16_t* scales) {
    const std::int64_t num_groups = round_up(num_in, kGroup) / kGroup;
    for (std::int64_t group = 0; group < num_groups; group += W) {
        const int count = static_cast<int>(num_groups - group < W ? num_groups - group : W);
        alignas(64) float lanes[kGroup][W] = {};
        for (int g = 0; g < count; ++g)
            for (int i = 0; i < kGroup; ++i) lanes[i][g] = row[(group + g) * kGroup + i];
        ScaleSearch search;
        for (int i = 0; i < kGroup; ++i) search.x[i] = load(lanes[i]);
        const vf found = search.run(), by = divisor(found);
        for (int i = 0; i < kGroup; ++i) store(lanes[i], nearest_code(search.x[i], by));
        float scale[W];
        store(scale, found);
        for (int g = 0; g < count; ++g) {
            scales[group + g] = float_to_bf16(scale[g]);
            const std::int64_t first = (group + g) * kGroup;
            const std::int64_t last = num_in - first < kGroup ? num_in - first : kGroup;
            for (std::int64_t i = 0; i < last; ++i)
                codes[first + i] = static_cast<std::int8_t>(lanes[i][g]);
        }
    }
}

inline void quantize_int8_row(const float* row, std::int64_t num_in, std::int8_t* codes,
                              float* scale) {
    const std::int64_t padded = round_up(num_in, kGroup);
    vf largest = zero();
    for (std::int64_t i = 0; i < padded; i += W) largest = max(largest, abs(load(row + i)));
    *scale = reduce_max(largest) / 127.0f;
    const vf by = divisor(set1(*scale)), low = set1(-127.0f), high = set1(127.0f);
    for (std::int64_t first = 0; first < num_in; first += kGroup) {
        float rounded[kGroup];
        for (int i = 0; i < kGroup; i += W)
            store(rounded + i, max(low, min(high, round_even(div(load(row + first + i), by)))));
        const std::int64_t last = num_in - first < kGroup ? num_in - first : kGroup;
        for (std::int64_t i = 0; i < last; ++i)
            codes[first + i] = static_cast<std::int8_t>(rounded[i]);
    }
}

// Where the first number that is not finite lies in a padded row, or -1.
inline std::int64_t find_not_finite(const float* row, std::int64_t padded) {
    std::uint32_t worst = 0;
    for (std::int64_t i = 0; i < padded; ++i) {
        const std::uint32_t size = float_to_bits(row[i]) & 0x7fffffffu;
        worst = worst < size ? size : worst;
    }
    if (worst < 0x7f800000u) return -1;
    for (std::int64_t i = 0; i < padded; ++i)
        if ((float_to_bits(row[i]) & 0x7fffffffu) >= 0x7f800000u) return i;
    return -1;
}

inline std::int64_t quantize_rows(const QuantizeArgs& args, std::int64_t first_row,
                                  std::int64_t last_row, float* scratch) {
    const std::int64_t num_in = args.num_in, padded = round_up(num_in, kGroup);
    for (std::int64_t i = num_in; i < padded; ++i) scratch[i] = 0.0f;
    for (std::int64_t row = first_row; row < last_row; ++row) {
        if (args.is_bf16) {
            const auto* from = static_cast<const std::uint16_t*>(args.source) + row * num_in;
            for (std::int64_t i = 0; i < num_in; ++i) scratch[i] = bf16_to_float(from[i]);
        } else {
            std::memcpy(scratch, static_cast<const float*>(args.source) + row * num_in,
                        static_cast<std::size_t>(num_in) * sizeof(float));
        }
        const std::int64_t wrong = find_not_finite(scratch, padded);
        if (wrong >= 0) return row * num_in + wrong;
        std::int8_t* codes = args.codes + row * num_in;
        if (args.format == Format::int8)
            quantize_int8_row(scratch, num_in, codes, static_cast<float*>(args.scales) + row);
        else
            quantize_int4_row(scratch, num_in, codes,
                              static_cast<std::uint16_t*>(args.scales) + row * (padded / kGroup));
    }
    return -1;
}

}  // namespace kept::KEPT_NS
