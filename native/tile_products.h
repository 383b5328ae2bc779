// The products of attention: a few queries by a tile of keys, their weights by a tile of values.
//
// Every output is one chain of multiply-adds over its inputs in ascending order, whatever the
// number of queries, so they can be grouped in any way without changing a bit.
#pragma once

#include "tile_operands.h"
#include "wide.h"

namespace kept::KEPT_NS {

// Adds to sums over `inputs` of rows of `a`, a_stride numbers apart, by vectors from `first` on.
template <class Of, int kRows, int kVectors, class Vectors>
KEPT_INLINE void accumulate(const Vectors& b, std::int64_t first, const typename Of::Act* a,
                            std::int64_t a_stride, std::int64_t inputs, LaterTile& ahead,
                            vf acc[kRows][kVectors]) {
    const std::int64_t steps = inputs / Vectors::kInputs;
    for (std::int64_t step = 0; step < steps; step += kFetchSteps) {
        ahead.fetch();
        KEPT_UNROLL_ALL
        for (int i = 0; i < kFetchSteps; ++i) {
            KEPT_UNROLL_ALL
            for (int part = 0; part < Vectors::kParts; ++part) {
                typename Of::Vector w[kVectors];
                b.template read<kVectors>(step + i, part, first, w);
                KEPT_UNROLL_ALL
                for (int r = 0; r < kRows; ++r) {
                    const auto x = Of::broadcast(a + r * a_stride + part);
                    KEPT_UNROLL_ALL
                    for (int v = 0; v < kVectors; ++v)
                        acc[r][v] = Of::add_in_place(acc[r][v], x, w[v]);
                }
            }
            a += Vectors::kInputs;
        }
    }
}

// Scores of a turn's queries over a tile's keys: (rows, 64).
template <class Of>
struct ScoreTurn {
    const std::byte* keys;
    const typename Of::Act* queries;
    std::int64_t padded;
    float* scores;
    LaterTile& ahead;

    template <int kRows>
    void run() const {
        constexpr int kVectors = 4 * kRows <= kSums ? 4 : 2;
        const Keys<Of> b{keys};
        for (std::int64_t t = 0; t < kTile; t += kVectors * W) {
            vf acc[kRows][kVectors];
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v) acc[r][v] = zero();
            }
            accumulate<Of, kRows, kVectors>(b, t, queries, padded, padded, ahead, acc);
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v) store(scores + r * kTile + t + v * W, acc[r][v]);
            }
        }
    }
};

// The same in one go with the transposition of stored keys, for queries of which one turn is all: a
// vector of tokens at a time, so that registers hold what is transposed.
template <class Of, class Code>
struct ScoreStored {
    const std::byte* const* rows;
    const typename Of::Act* queries;
    std::int64_t padded;
    float* scores;
    LaterTile& ahead;

    static constexpr int kDims = Code::kWords * Code::kInWord;

    template <int kRows>
    void run() const {
        for (std::int64_t t = 0; t < kTile; t += W) {
            vf acc[kRows];
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) acc[r] = zero();
            for (std::int64_t d = 0; d < padded; d += kDims) {
                vb words[Code::kWords];
                load_words<Code>(rows + t, d, words);
                KEPT_UNROLL_ALL
                for (int i = 0; i < Code::kWords; ++i)
                    add<kRows>(words[i], queries + d + i * Code::kInWord, acc);
            }
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) store(scores + r * kTile + t, acc[r]);
        }
    }

  private:
    template <int kRows>
    KEPT_INLINE void add(vb words, const typename Of::Act* a, vf acc[kRows]) const {
        constexpr int kSteps = Code::kInWord / Of::kInputs;
        ahead.fetch_line();  // for each vector of words, which is all of a tile
        typename Of::Vector x[kSteps];
        split<Of, Code>(words, x);
        KEPT_UNROLL_ALL
        for (int step = 0; step < kSteps; ++step) {
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r)
                acc[r] =
                    Of::mac(acc[r], Of::broadcast(a + r * padded + step * Of::kInputs), x[step]);
        }
    }
};

// A turn's sums (rows, padded) of values, times `correction` (rows), and this tile's weighed values
// added.
template <class Of, class Values>
struct WeighTurn {
    Values values;
    const typename Of::Act* weights;
    std::int64_t padded;
    const float* correction;
    float* sums;
    LaterTile& ahead;

    template <int kRows>
    void run() const {
        if constexpr (4 * kRows <= kSums)
            if (padded % (4 * W) == 0) return run<kRows, 4>();
        run<kRows, 2>();
    }

  private:
    template <int kRows, int kVectors>
    void run() const {
        for (std::int64_t d = 0; d < padded; d += kVectors * W) {
            vf acc[kRows][kVectors];
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v)
                    acc[r][v] = mul(load(sums + r * padded + d + v * W), set1(correction[r]));
            }
            accumulate<Of, kRows, kVectors>(values, d, weights, kTile, kTile, ahead, acc);
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v) store(sums + r * padded + d + v * W, acc[r][v]);
            }
        }
    }
};

}  // namespace kept::KEPT_NS
