// One tile's part of the online softmax of a few queries: the weights of its keys by their scores,
// and the state (peak, sum, out) that goes from tile to tile and from chunk to chunk. Scores and
// peaks are logarithms to the base of 2.
#pragma once

#include <algorithm>
#include <array>
#include <limits>

#include "across_rows.h"
#include "lanes_math.h"
#include "sight.h"
#include "tile_products.h"
#include "tiles.h"

namespace kept::KEPT_NS {

constexpr float kNever = -std::numeric_limits<float>::infinity();  // a score, where nothing is seen
constexpr float kLog2E = 1.44269504088896341f;

// What queries have come to over a chunk, or over several. `sum` is of lanes that are still to be
// added up within a chunk.
struct AttendState {
    float *peak, *sum, *out;  // (Q), (Q, W) or (Q), (Q, padded_values)
};

// Queries that are worked on together at most, on any set: the rows of a matrix tile.
constexpr int kMostTurn = kTileRows;
static_assert(kTurn <= kMostTurn);

// 0, 1, 2, ... for each token of a tile.
constexpr std::array<float, kTile> kPlaces = [] {
    std::array<float, kTile> places{};
    for (int t = 0; t < kTile; ++t) places[static_cast<std::size_t>(t)] = static_cast<float>(t);
    return places;
}();

// What the scores of a query take on over a tile: 64 numbers, or a slope times how far each of its
// tokens is, the first of them so far.
struct TileBias {
    const float* table = nullptr;
    float slope = 0, distance = 0;

    bool is_none() const { return !table && slope == 0; }
    // Of tokens t to t + W of the tile.
    vf at(int t) const {
        if (table) return load(table + t);
        return mul(set1(slope), add(set1(distance), load(kPlaces.data() + t)));
    }
};

// Everything one unit works on, cut from a thread's scratch. Q queries: rows times heads of a
// group. What the queries of a turn need comes in groups of that many. Behind the queries of a turn
// that is not whole there is room for the others: matrix tiles have 16 rows whatever they hold.
struct AttendScratch {
    std::int64_t padded, padded_values;     // D of keys and of values, rounded up to 32
    std::int64_t key_groups, value_groups;  // scales a token and head that are still to multiply
    TokenSet* sees;                         // (Q) of a tile
    TileBias* biases;                       // (Q)
    std::byte *queries, *keys, *values, *staged, *weights;
    float* scores;
    float *key_scales, *value_scales;  // (groups of each, 64); one of keys at least
    float* query_steps;                // (Q) of queries in wide numbers
    std::int32_t* query_starts;        // (Q, groups of keys)
    AttendState state, all;            // of this chunk, and of those so far
    // Of matrix tiles: scores of the turn after this one; the queries of a turn as pairs, and which
    // they are; scores as they come by columns; sums of a turn that is not whole.
    float* more_scores;
    std::byte* paired;
    std::int64_t* paired_are;  // first and last
    float *across, *sums;

    AttendScratch(float* at, std::int64_t num_queries, const AttentionShape& shape,
                  std::int64_t scales_of_key, std::int64_t scales_of_value)
        : padded(round_up(shape.head_dim, 32)),
          padded_values(round_up(shape.value_dim, 32)),
          key_groups(scales_of_key),
          value_groups(scales_of_value) {
        const auto take = [&](std::int64_t floats) {
            float* taken = at;
            at += round_up(floats, 16);
            return taken;
        };
        const auto bytes = [&](std::int64_t floats) {
            return reinterpret_cast<std::byte*>(take(floats));
        };
        const std::int64_t q = num_queries, whole = round_up(shape.head_dim, 64);
        const std::int64_t wider = std::max(whole, round_up(shape.value_dim, 64));
        const auto groups = [](std::int64_t count) { return std::max<std::int64_t>(count, 1); };
        sees = reinterpret_cast<TokenSet*>(take(2 * q));
        biases = reinterpret_cast<TileBias*>(take(4 * q));
        queries = bytes(q * padded);
        keys = bytes(whole * kTile);
        values = bytes(padded_values * kTile);
        staged = bytes(wider * kTile / 2);
        weights = bytes(kMostTurn * kTile * groups(value_groups));
        scores = take(kMostTurn * kTile * groups(key_groups));
        key_scales = take(groups(key_groups) * kTile);
        value_scales = take(value_groups * kTile);
        query_steps = take(q);
        query_starts = reinterpret_cast<std::int32_t*>(take(q * groups(key_groups)));
        state = {take(q + W), take(q * W), take(q * padded_values)};
        all = {take(q + W), take(q), take(q * padded_values)};
        more_scores = take(kMostTurn * kTile * groups(key_groups));
        paired = bytes(kMostTurn * padded / 2);
        paired_are = reinterpret_cast<std::int64_t*>(take(4));
        across = take(kTile * kMostTurn);
        sums = take(kMostTurn * padded_values);
        std::fill_n(paired_are, 2, 0);
    }
};

// What a score is multiplied with beside the scales of its key.
inline float score_factor(const AttentionShape& shape) {
    return shape.softcap > 0 ? shape.scale : shape.scale * kLog2E;
}

// Whether nothing is done to a query's scores but a multiplication, which is then done where they
// are used.
inline bool only_scales(const AttentionShape& shape, const AttendScratch& s, TokenSet sees,
                        const TileBias& bias) {
    return s.key_groups <= 1 && shape.softcap <= 0 && sees == ~TokenSet{0} && bias.is_none();
}

// Scores of queries [begin, end) of a turn, scaled, with what they take on, and without those of
// tokens that a query must not see; and the largest of each query.
inline void scale_scores(const AttentionShape& shape, const AttendScratch& s, const TokenSet* sees,
                         const TileBias* biases, int rows, int begin, int end, float* tops) {
    vf largest[W];
    for (int r = begin; r < end; ++r) {
        vf& top = largest[r - begin];
        top = set1(kNever);
        float* scores = s.scores + r * kTile;
        if (only_scales(shape, s, sees[r], biases[r])) {
            KEPT_UNROLL_ALL
            for (int t = 0; t < kTile; t += W)
                top = max(top, mul(load(scores + t), load(s.key_scales + t)));
            continue;
        }
        KEPT_UNROLL_ALL
        for (int t = 0; t < kTile; t += W) {
            vf x = mul(load(scores + t), load(s.key_scales + t));
            for (std::int64_t g = 1; g < s.key_groups; ++g)
                x = fma(load(scores + g * rows * kTile + t), load(s.key_scales + g * kTile + t), x);
            if (shape.softcap > 0) x = mul(soft_cap(x, shape.softcap), set1(kLog2E));
            if (!biases[r].is_none()) x = fma(biases[r].at(t), set1(kLog2E), x);
            // Not a sum: what is hidden may be infinite or NaN.
            if (sees[r] != ~TokenSet{0}) x = select(sees[r] >> t, x, set1(kNever));
            store(scores + t, x);
            top = max(top, x);
        }
    }
    largest_of_rows(largest, end - begin, tops);
}

// Moves peaks on. What weights and sums so far are multiplied with because of that goes to
// `correction`, what weights are taken from to `base`: where nothing is seen so far any finite
// number gives weights of zero.
inline void raise_peaks(float* peak, const float* tops, int rows, float* base, float* correction) {
    const vf before = load(peak), top = max(load(tops), before);
    const vf from = where_less(set1(kNever), top, top, zero());
    float lanes[W];
    store(lanes, top);
    std::copy_n(lanes, rows, peak);
    store(base, from);
    store(correction, exp2<false>(sub(before, from)));
}

// Scores of queries [begin, end) of a turn, at most W, become their weights.
template <bool kRounds, class Put>
void soften_some(const AttentionShape& shape, const AttendScratch& s, std::int64_t first, int rows,
                 int begin, int end, float* correction, const Put& put) {
    float tops[W], base[W], moved[W];
    const TokenSet* sees = s.sees + first;
    const TileBias* biases = s.biases + first;
    scale_scores(shape, s, sees, biases, rows, begin, end, tops);
    raise_peaks(s.state.peak + first + begin, tops, end - begin, base, moved);
    for (int r = begin; r < end; ++r) {
        const float* scores = s.scores + r * kTile;
        const vf from = set1(base[r - begin]), down = set1(-base[r - begin]);
        const bool scales = only_scales(shape, s, sees[r], biases[r]);
        vf p[kTile / W];
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; ++i) {
            const vf x = load(scores + i * W);
            p[i] = exp2<kRounds>(scales ? fma(x, load(s.key_scales + i * W), down) : sub(x, from));
        }
        float* sum = s.state.sum + (first + r) * W;
        correction[r] = moved[r - begin];
        store(sum, fma(load(sum), set1(correction[r]), put(sees[r], r, p)));
    }
}

// Scores of a turn's queries, from `first` on, become their weights p of a tile, which put(sees,
// row, p) stores; it returns the lanes of their sum.
template <bool kRounds, class Put>
void soften(const AttentionShape& shape, const AttendScratch& s, std::int64_t first, int rows,
            float* correction, const Put& put) {
    for (int begin = 0; begin < rows; begin += W)
        soften_some<kRounds>(shape, s, first, rows, begin, std::min(begin + W, rows), correction,
                             put);
}

inline void begin_state(const AttendState& state, std::int64_t num_queries, std::int64_t padded) {
    std::fill_n(state.peak, num_queries, kNever);
    std::fill_n(state.sum, num_queries * W, 0.0f);
    std::fill_n(state.out, num_queries * padded, 0.0f);
}

// Adds up the lanes of a chunk's sums, to (Q).
inline void end_state(const AttendState& state, std::int64_t num_queries) {
    for (std::int64_t q = 0; q < num_queries; ++q)
        state.sum[q] = reduce_add(load(state.sum + q * W));
}

// Adds a chunk's state to that of the chunks before it.
inline void merge_state(const AttendState& all, const AttendState& next, std::int64_t num_queries,
                        std::int64_t padded) {
    for (std::int64_t first = 0; first < num_queries; first += W) {
        const std::int64_t count = std::min<std::int64_t>(W, num_queries - first);
        float peaks[2][W], factors[2][W];
        for (int i = 0; i < 2; ++i) {
            std::fill_n(peaks[i], W, kNever);
            std::copy_n((i == 0 ? all : next).peak + first, count, peaks[i]);
        }
        const vf a = load(peaks[0]), b = load(peaks[1]), top = max(b, a);
        const vf from = where_less(set1(kNever), top, top, zero());
        store(factors[0], exp2<false>(sub(a, from)));
        store(factors[1], exp2<false>(sub(b, from)));
        store(peaks[0], top);
        std::copy_n(peaks[0], count, all.peak + first);
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t q = first + i;
            const float before = factors[0][i], after = factors[1][i];
            all.sum[q] = all.sum[q] * before + next.sum[q] * after;
            for (std::int64_t d = q * padded; d < (q + 1) * padded; d += W)
                store(all.out + d,
                      fma(load(next.out + d), set1(after), mul(load(all.out + d), set1(before))));
        }
    }
}

}  // namespace kept::KEPT_NS
