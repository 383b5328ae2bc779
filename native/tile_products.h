// The products of attention: a few queries by a tile of keys, their weights by a tile of values.
//
// Every output is one chain of multiply-adds over its inputs in ascending order, whatever the
// number of queries, so they can be grouped in any way without changing a bit.
#pragma once

#include <algorithm>

#include "codes.h"
#include "kernels.h"
#include "prefetch.h"
#include "tile.h"

namespace kept::KEPT_NS {

// Vectors of sums that registers hold beside operands, and queries that are worked on together: two
// vectors of sums each, and a lane of a vector.
constexpr int kSums = kMaxRows * NV;
constexpr int kTurn = std::min(kSums / 2, W);

constexpr std::int64_t kKeyStep = 4 * kTile;  // bytes

// What goes into the products. kInputs of a step, kRounds: weights are rounded to bf16, kWide:
// codes are multiplied by wide numbers (wide.h) instead.
//
// Floats, of bf16 numbers or of any.
template <bool kOfBf16>
struct FloatOperands {
    using Act = float;
    using Vector = vf;
    static constexpr bool kPairs = false, kRounds = kOfBf16, kWide = kOfBf16;
    static constexpr int kInputs = 1;
    static Vector read(const std::byte* p) { return load(reinterpret_cast<const float*>(p)); }
    static void write(std::byte* p, Vector x) { store(reinterpret_cast<float*>(p), x); }
    static Vector broadcast(const Act* a) { return set1(*a); }
    static vf mac(vf acc, Vector a, Vector b) { return fma(a, b, acc); }
    static vf put(Act* to, const vf* p) {
        vf total = zero();
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; ++i) {
            const vf x = kOfBf16 ? nearest_bf16(p[i]) : p[i];
            store(to + i * W, x);
            total = add(total, x);
        }
        return total;
    }
};

#if defined(__AVX512BF16__)

// Pairs of bf16, where one instruction takes them.
struct PairOperands {
    using Act = std::uint16_t;
    using Vector = vb;
    static constexpr bool kPairs = true, kRounds = true, kWide = true;
    static constexpr int kInputs = 2;
    static Vector read(const std::byte* p) { return load_pairs(p); }
    static void write(std::byte* p, Vector x) { store_pairs(p, x); }
    static Vector broadcast(const Act* a) { return set1_pair(a); }
    static vf mac(vf acc, Vector a, Vector b) { return dp(acc, a, b); }
    // Stores the weights of a tile, and adds them up as they are stored.
    static vf put(Act* to, const vf* p) {
        static constexpr std::uint16_t kOnes[2] = {0x3f80, 0x3f80};
        vf total = zero();
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; i += 2) {
            const vb pairs = narrow_pairs(p[i], p[i + 1]);
            store_pairs(to + i * W, pairs);
            total = dp(total, pairs, set1_pair(kOnes));
        }
        return total;
    }
};

using Bf16Operands = PairOperands;

#else

using Bf16Operands = FloatOperands<true>;

#endif

// The vectors of a word of stored codes: of each step that they make.
template <class Of, class Code>
KEPT_INLINE void split(vb words, typename Of::Vector* out) {
    if constexpr (Of::kPairs)
        Code::pair(words, out);
    else
        Code::widen(words, out);
}

// Values as they are stored, for queries of few turns.
template <class Of, class Code>
struct StoredValues {
    const std::byte* const* rows;

    template <int kVectors>
    KEPT_INLINE void read(std::int64_t step, std::int64_t first, typename Of::Vector* out) const {
        if constexpr (Of::kPairs) {
            static_assert(kVectors % 2 == 0);
            KEPT_UNROLL_ALL
            for (int v = 0; v < kVectors; v += 2)
                Code::zip(rows[2 * step], rows[2 * step + 1], first + v * W, out + v);
        } else {
            KEPT_UNROLL_ALL
            for (int v = 0; v < kVectors; ++v) out[v] = Code::read(rows[step], first + v * W);
        }
    }
};

// What is fetched from memory on the way, `stride` bytes a step.
struct Fetch {
    const std::byte* p;
    std::int64_t stride;
};

// The vectors of a tile that was expanded: steps lie `stride` bytes apart.
template <class Of>
struct Expanded {
    const std::byte* at;
    std::int64_t stride;

    template <int kVectors>
    KEPT_INLINE void read(std::int64_t step, std::int64_t first, typename Of::Vector* out) const {
        KEPT_UNROLL_ALL
        for (int v = 0; v < kVectors; ++v)
            out[v] = Of::read(at + step * stride + (first + v * W) * 4);
    }
};

// Adds to sums over `inputs` of rows of `a`, a_stride numbers apart, by vectors from `first` on.
template <class Of, int kRows, int kVectors, class Vectors>
KEPT_INLINE void accumulate(const Vectors& b, std::int64_t first, const typename Of::Act* a,
                            std::int64_t a_stride, std::int64_t inputs, Fetch& next,
                            vf acc[kRows][kVectors]) {
    const std::int64_t steps = inputs / Of::kInputs;
    for (std::int64_t step = 0; step < steps; ++step, a += Of::kInputs, next.p += next.stride) {
        prefetch_outer(next.p);
        prefetch_outer(next.p + 64);
        typename Of::Vector w[kVectors];
        b.template read<kVectors>(step, first, w);
        KEPT_UNROLL_ALL
        for (int r = 0; r < kRows; ++r) {
            const auto x = Of::broadcast(a + r * a_stride);
            KEPT_UNROLL_ALL
            for (int v = 0; v < kVectors; ++v) acc[r][v] = Of::mac(acc[r][v], x, w[v]);
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
    Fetch& next;

    template <int kRows>
    void run() const {
        constexpr int kVectors = 4 * kRows <= kSums ? 4 : 2;
        const Expanded<Of> b{keys, kKeyStep};
        for (std::int64_t t = 0; t < kTile; t += kVectors * W) {
            vf acc[kRows][kVectors];
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v) acc[r][v] = zero();
            }
            accumulate<Of, kRows, kVectors>(b, t, queries, padded, padded, next, acc);
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
    Fetch& next;

    static constexpr int kDims = Code::kWords * Code::kInWord;

    template <int kRows>
    void run() const {
        for (std::int64_t t = 0; t < kTile; t += W) {
            vf acc[kRows];
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) acc[r] = zero();
            for (std::int64_t d = 0; d < padded; d += kDims) {
                vb words[Code::kWords];
                load_transposed<Code::kWords>(rows + t, d / Code::kInWord * 4, words);
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
        // A line for each vector of words, which is all of a tile.
        prefetch_outer(next.p);
        next.p += 4 * W;
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
    Fetch& next;

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
            accumulate<Of, kRows, kVectors>(values, d, weights, kTile, kTile, next, acc);
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                KEPT_UNROLL_ALL
                for (int v = 0; v < kVectors; ++v) store(sums + r * padded + d + v * W, acc[r][v]);
            }
        }
    }
};

}  // namespace kept::KEPT_NS
