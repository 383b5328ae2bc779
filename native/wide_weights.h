// Weights of a tile as wide numbers (wide.h), for values that are stored as codes with scales.
#pragma once

#include "tile_softmax.h"
#include "tile_wide.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kMaxScales = kMaxHeadDim / kPanel;  // of a token

// What the products with values need of a turn, each (groups, rows), and room for a vector.
struct WideTurn {
    float factors[kTurn * kMaxScales + W];        // what a whole number counts
    std::int32_t starts[kTurn * kMaxScales + W];  // what sums begin with
};

// Keeps the weights of a turn's query `row` where its scores were.
struct KeepWeights {
    const AttendScratch& s;

    KEPT_INLINE vf operator()(TokenSet, int row, const vf* p) const {
        vf total = p[0];
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; ++i) {
            store(s.scores + row * kTile + i * W, p[i]);
            if (i > 0) total = add(total, p[i]);
        }
        return total;
    }
};

// Weights that were kept, times the scales of the values, as wide numbers of which the largest of
// a query and group is kMostWide. Steps are taken for all queries of a turn at once, so that none
// waits for another row's. offset: of the values' codes.
class WidenWeights {
  public:
    WidenWeights(const AttendScratch& s, const TokenSet* sees, int rows, int offset, bool finite)
        : s_(s), sees_(sees), rows_(rows), offset_(offset), finite_(finite) {}

    // finite: all scales of the tile.
    void to(WideTurn& turn) const {
        for (std::int64_t g = 0; g < s_.value_groups; ++g)
            for (int begin = 0; begin < rows_; begin += W)
                some(g, begin, std::min(begin + W, rows_), turn);
    }

  private:
    // Of a smaller one its inverse would be none.
    static constexpr float kLeast = 1e-34f;
    static constexpr int kVectors = kTile / W;

    KEPT_INLINE void scaled(const vf* scales, int row, vf* x) const {
        KEPT_UNROLL_ALL
        for (int i = 0; i < kVectors; ++i) {
            x[i] = mul(load(s_.scores + row * kTile + i * W), scales[i]);
            if (sees_[row] != ~TokenSet{0}) x[i] = select(sees_[row] >> i * W, x[i], zero());
        }
    }

    void some(std::int64_t group, int begin, int end, WideTurn& turn) const {
        const std::int64_t at = group * rows_ + begin;
        const int count = end - begin;
        vf scales[kVectors], x[kVectors], most[W];
        vi sums[W];
        float tops[W], inverses[W];
        KEPT_UNROLL_ALL
        for (int i = 0; i < kVectors; ++i)
            scales[i] = load(s_.value_scales + group * kTile + i * W);
        for (int r = 0; r < count; ++r) {
            scaled(scales, begin + r, x);
            most[r] = abs(x[0]);
            KEPT_UNROLL_ALL
            for (int i = 1; i < kVectors; ++i) most[r] = max(most[r], abs(x[i]));
        }
        largest_of_rows(most, count, tops);
        const vf top = max(load(tops), set1(kLeast));
        store(inverses, div(set1(kMostWide), top));
        store(turn.factors + at, mul(top, set1(1.0f / kMostWide)));
        for (int r = 0; r < count; ++r) {
            scaled(scales, begin + r, x);
            const vf inverse = set1(inverses[r]);
            vi codes[kVectors];
            KEPT_UNROLL_ALL
            for (int i = 0; i < kVectors; ++i) codes[i] = wide_of(mul(x[i], inverse));
            put_weights(s_.weights + (at + r) * 2 * kTile, codes);
            sums[r] = codes[0];
            KEPT_UNROLL_ALL
            for (int i = 1; i < kVectors; ++i) sums[r] = plus(sums[r], codes[i]);
            if (!finite_) spread(x, turn.factors[at + r]);
        }
        if (offset_ == 0) return;
        std::int32_t totals[W];
        totals_of_rows(sums, count, totals);
        for (int r = 0; r < count; ++r) turn.starts[at + r] = start_of(offset_, totals[r]);
    }

    // No whole number is a NaN.
    static void spread(const vf* x, float& factor) {
        for (int i = 0; i < kVectors; ++i)
            if (any_nan(x[i])) factor = std::numeric_limits<float>::quiet_NaN();
    }

    const AttendScratch& s_;
    const TokenSet* sees_;
    int rows_, offset_;
    bool finite_;
};

// Whether all scales of a tile's values are numbers. Those that nobody sees are zero.
inline bool are_finite(const AttendScratch& s) {
    vf sum = zero();
    for (std::int64_t i = 0; i < s.value_groups * kTile; i += W)
        sum = add(sum, mul(load(s.value_scales + i), zero()));
    return !any_nan(sum);
}

}  // namespace kept::KEPT_NS
