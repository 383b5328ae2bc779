// Weights of a tile as wide numbers (wide.h), for values that are stored as codes with scales.
#pragma once

#include "tile_softmax.h"
#include "tile_wide.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kMaxScales = kMaxHeadDim / kPanel;  // of a token

// What the products with values need of a turn, each (groups, rows).
struct WideTurn {
    float factors[kTurn * kMaxScales];        // what a whole number counts
    std::int32_t starts[kTurn * kMaxScales];  // what sums begin with
};

// Writes the weights of a turn's query `row`, times the scales of the values, so that the largest
// of a group is kMostWide. offset: of the values' codes.
struct PutWide {
    const AttendScratch& s;
    int rows, offset;
    bool finite;  // all scales of the tile
    WideTurn& turn;

    vf operator()(TokenSet sees, int row, const vf* p) const {
        for (std::int64_t g = 0; g < s.value_groups; ++g) put(g, sees, g * rows + row, p);
        vf total = p[0];
        KEPT_UNROLL_ALL
        for (int i = 1; i < kTile / W; ++i) total = add(total, p[i]);
        return total;
    }

  private:
    // Of a smaller one its inverse would be none.
    static constexpr float kLeast = 1e-34f;

    void put(std::int64_t group, TokenSet sees, std::int64_t at, const vf* p) const {
        vf x[kTile / W], most = zero();
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; ++i) {
            x[i] = mul(p[i], load(s.value_scales + group * kTile + i * W));
            if (sees != ~TokenSet{0}) x[i] = select(sees >> i * W, x[i], zero());
            most = max(most, abs(x[i]));
        }
        const float top = std::max(reduce_max(most), kLeast);
        const vf inverse = set1(kMostWide / top);
        vi codes[kTile / W], sum = wide_set1(0);
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; ++i) {
            codes[i] = wide_of(mul(x[i], inverse));
            sum = plus(sum, codes[i]);
        }
        put_weights(s.weights + at * 2 * kTile, codes);
        if (offset) turn.starts[at] = start_of(offset, total_of(sum));
        turn.factors[at] = top * (1.0f / kMostWide);
        // No whole number is a NaN.
        if (!finite)
            for (const vf& of : x)
                if (any_nan(of)) turn.factors[at] = std::numeric_limits<float>::quiet_NaN();
    }
};

// Whether all scales of a tile's values are numbers. Those that nobody sees are zero.
inline bool are_finite(const AttendScratch& s) {
    vf sum = zero();
    for (std::int64_t i = 0; i < s.value_groups * kTile; i += W)
        sum = add(sum, mul(load(s.value_scales + i), zero()));
    return !any_nan(sum);
}

}  // namespace kept::KEPT_NS
