// attend() on matrix tiles, where keys and values are not floats.
//
// Every product is one chain of dot() per output, over the elements of a head or the tokens of a
// tile in ascending order, 32 at a time; sums of values go on in the tile from what they were. An
// output depends on its own row and column alone, and on neither which operand stood left, so few
// queries and many have the same bits:
//
//   up to 16 queries   (64 tokens, 16 queries) = keys as they are stored  x  queries as pairs
//   more               (16 queries, 64 tokens) = queries                  x  keys as pairs
//   both               (16 queries, D)        += weights                  x  values as pairs
//
// Few queries spare the transposition of a tile's keys, many that of their scores. Of many the
// scores of the next turn are under way in the tiles while this turn's become weights.
#pragma once

#include <algorithm>

#include "attention.h"
#include "matrix_softmax.h"
#include "pair_rows.h"
#include "tile_shapes.h"

namespace kept::KEPT_NS {

template <class Tiles>
struct OperandsOn : MatrixOperands {};

// A square of floats the other way round: the first `rows` of its columns.
inline void transpose_scores(const float* from, int rows, float* to) {
#if defined(__AVX512F__)
    if (rows <= W / 2) {
        const std::byte* lines[W];
        for (int i = 0; i < W; ++i) lines[i] = reinterpret_cast<const std::byte*>(from + i * W);
        vb columns[W / 2];
        load_transposed<W / 2>(lines, 0, columns);
        KEPT_UNROLL_ALL
        for (int r = 0; r < W / 2; ++r)
            if (r < rows) store_pairs(to + r * kTile, columns[r]);
        return;
    }
    vb columns[W];
    KEPT_UNROLL_ALL
    for (int i = 0; i < W; ++i) columns[i] = load_pairs(from + i * W);
    transpose(columns);
    KEPT_UNROLL_ALL
    for (int r = 0; r < W; ++r)
        if (r < rows) store_pairs(to + r * kTile, columns[r]);
#else
    for (int r = 0; r < rows; ++r)
        for (int t = 0; t < kTileRows; ++t) to[r * kTile + t] = from[t * kTileRows + r];
#endif
}

template <class Tiles>
struct TileWork<OperandsOn<Tiles>> {
    const AttendArgs& args;
    const AttendScratch& s;
    const TileRows &keys, &values;
    Fetch next_keys, next_values;

    // Which of both ways the tile is expanded depends on who attends.
    void expand_keys(std::int64_t) const {}
    void expand_values(std::int64_t) const {}
    bool may_spread() const { return true; }

    void attend(std::int64_t first, std::int64_t last) const {
        if (last - first <= kTileRows)
            attend_few(first, last);
        else
            attend_many(first, last);
    }

  private:
    static constexpr std::int64_t kDotInputs = 2 * kTileRows, kDotBytes = 2 * kDotInputs;

    // Tokens of the tile up to the last that anybody sees: the weights of those behind are zero,
    // and their scores are not looked at.
    std::int64_t known() const { return kTile - std::countl_zero(keys.seen); }
    bool has_two_halves() const { return known() > kTile / 2; }
    // What comes later from memory, in parts of which there are so many.
    struct Later {
        LaterTile keys, values;

        Later(const Fetch& next_keys, const Fetch& next_values, std::int64_t parts)
            : keys(next_keys.p, next_keys.bytes, parts * kFetchSteps),
              values(next_values.p, next_values.bytes, parts * kFetchSteps) {}
    };

    bool by_groups() const { return s.key_groups > 1; }
    std::int64_t num_dots() const { return s.padded / kDotInputs; }
    TurnSoftmax softmax() const { return {args.shape, s}; }
    bool sees_some(std::int64_t begin, std::int64_t end) const {
        return std::any_of(s.sees + begin, s.sees + end, [](TokenSet seen) { return seen != 0; });
    }

    void attend_few(std::int64_t first, std::int64_t last) const {
        if (!sees_some(first, last)) return;
        const auto rows = static_cast<int>(last - first);
        pair_queries(first, last);
        const KeyRows lines = key_rows(keys, known(), s.padded, s.staged, s.keys);
        const std::int64_t once = by_groups() ? 1 : num_dots();
        Later later(next_keys, next_values, has_two_halves() ? kTile / 2 : kTile / 4);
        for (std::int64_t k = 0; k < num_dots(); k += once) {
            score_few(lines, k, k + once);
            if (k == 0) pair_values(0, kTile / 2, later);  // while the tiles are busy
            float* to = s.scores + (by_groups() ? k * rows * kTile : 0);
            for (std::int64_t j = 0; j * kTileRows < known(); ++j)
                transpose_scores(s.across + j * kTileRows * kTileRows, rows, to + j * kTileRows);
        }
        float correction[kTileRows];
        const std::uint32_t moved = softmax()(s.scores, first, rows, correction);
        if (has_two_halves())
            pair_values(kTile / 2, kTile, later);  // while weights are on their way
        weigh(first, rows, correction, moved);
    }

    void attend_many(std::int64_t first, std::int64_t last) const {
        key_pairs(keys, s.padded, s.staged, s.keys);
        value_pairs(values, s.padded_values, 0, kTile, s.staged, s.values, [] {});
        const auto end_of = [&](std::int64_t begin) {
            return std::min<std::int64_t>(begin + kTileRows, last);
        };
        const auto seeing = [&](std::int64_t begin) {
            while (begin < last && !sees_some(begin, end_of(begin))) begin += kTileRows;
            return begin;
        };
        float* scores[2] = {s.scores, s.more_scores};
        std::int64_t begin = seeing(first);
        if (begin < last) score(begin, end_of(begin), scores[0]);
        for (std::int64_t next; begin < last; begin = next, std::swap(scores[0], scores[1])) {
            next = seeing(begin + kTileRows);
            if (next < last) score(next, end_of(next), scores[1]);
            const auto rows = static_cast<int>(end_of(begin) - begin);
            float correction[kTileRows];
            const std::uint32_t moved = softmax()(scores[0], begin, rows, correction);
            weigh(begin, rows, correction, moved);
        }
    }

    // The queries of a call as the right operand, which they stay from tile to tile.
    void pair_queries(std::int64_t first, std::int64_t last) const {
        if (s.paired_are[0] == first && s.paired_are[1] == last) return;
        s.paired_are[0] = first, s.paired_are[1] = last;
        const std::int64_t pairs = s.padded / 2;
        const auto* from = reinterpret_cast<const std::uint32_t*>(s.queries) + first * pairs;
        auto* to = reinterpret_cast<std::uint32_t*>(s.paired);
        for (std::int64_t q = 0; q < last - first; ++q)
            for (std::int64_t i = 0; i < pairs; ++i) to[i * kTileRows + q] = from[q * pairs + i];
    }

    // Scores (64, 16) over elements 32 k_begin to 32 k_end, to s.across. Tokens outside, so that
    // keys are read in the order they lie in.
    void score_few(const KeyRows& lines, std::int64_t k_begin, std::int64_t k_end) const {
        constexpr int kGroups = kTile / kTileRows;
        const std::int64_t groups = (known() + kTileRows - 1) / kTileRows;
        for_constants<kGroups>([]<int j>() { Tiles::template zero<j>(); });
        for (std::int64_t k = k_begin; k < k_end; ++k) {
            Tiles::template load<4>(s.paired + k * kTileRows * kTileRowBytes, kTileRowBytes);
            for_constants<kGroups>([&]<int j>() {
                constexpr int kKeys = 5 + j % 3;
                if (j >= groups) return;
                Tiles::template load<kKeys>(lines.group(j) + k * kDotBytes, lines.stride);
                Tiles::template dot<j, kKeys, 4>();
            });
        }
        for_constants<kGroups>([&]<int j>() {
            if (j < groups)
                Tiles::template store<j>(s.across + j * kTileRows * kTileRows, kTileRowBytes);
        });
    }

    // Values of tokens [begin, end), and with each pair a part of a later tile.
    void pair_values(std::int64_t begin, std::int64_t end, Later& later) const {
        value_pairs(values, s.padded_values, begin, end, s.staged, s.values, [&] {
            later.keys.fetch();
            later.values.fetch();
        });
    }

    // Scores of a turn that is over many, (rows, 64) of each group one behind the other.
    void score(std::int64_t begin, std::int64_t end, float* to) const {
        const std::byte* queries = s.queries + begin * s.padded * 2;
        for (std::int64_t k = 0; k < num_dots(); ++k) {
            if (k == 0 || by_groups()) for_constants<4>([]<int j>() { Tiles::template zero<j>(); });
            Tiles::template load<4>(queries + k * kDotBytes, s.padded * 2);
            for_constants<4>([&]<int j>() {
                constexpr int kKeys = 5 + j % 3;
                Tiles::template load<kKeys>(s.keys + k * kTileRows * kKeyStep + j * kTileRowBytes,
                                            kKeyStep);
                Tiles::template dot<j, 4, kKeys>();
            });
            if (!by_groups() && k + 1 < num_dots()) continue;
            // Rows that are no queries' are written over by the next group, or lie behind the last.
            for_constants<4>(
                [&]<int j>() { Tiles::template store<j>(to + j * kTileRows, kTile * 4); });
            to += (end - begin) * kTile;
        }
    }

    void weigh(std::int64_t begin, int rows, const float* correction, std::uint32_t moved) const {
        float* sums = s.state.out + begin * s.padded_values;
        for (; moved != 0; moved &= moved - 1) {
            const int r = std::countr_zero(moved);
            for (std::int64_t d = r * s.padded_values; d < (r + 1) * s.padded_values; d += W)
                store(sums + d, mul(load(sums + d), set1(correction[r])));
        }
        // Behind a turn that is not whole lie the sums of others.
        float* to = rows == kTileRows ? sums : s.sums;
        const std::int64_t blocks = s.padded_values / kPanel;
        load_weights(0, rows);
        for (std::int64_t block = 0; block < blocks; block += 2) {
            if (s.value_groups > 1 && block > 0) load_weights(block, rows);
            weigh_block<0>(block, sums, to);
            if (block + 1 == blocks) break;
            if (s.value_groups > 1) load_weights(block + 1, rows);
            weigh_block<2>(block + 1, sums, to);
        }
        if (to == s.sums) std::copy_n(s.sums, rows * s.padded_values, sums);
    }

    void load_weights(std::int64_t group, int rows) const {
        const std::byte* weights = s.weights + group * rows * kTile * 2;
        for_constants<2>([&]<int k>() {
            if (k > 0 && !has_two_halves()) return;
            Tiles::template load<4 + k>(weights + k * kDotBytes, kTile * 2);
        });
    }

    // Sums of 32 elements, in tiles kSums and the one behind it.
    template <int kSums>
    void weigh_block(std::int64_t block, const float* sums, float* to) const {
        const std::int64_t stride = s.padded_values * 4;
        const std::byte* from = s.values + block * kPanel * 4;
        for_constants<2>([&]<int i>() {
            Tiles::template load<kSums + i>(sums + block * kPanel + i * kTileRows, stride);
        });
        for_constants<2>([&]<int k>() {
            if (k > 0 && !has_two_halves()) return;
            for_constants<2>([&]<int i>() {
                Tiles::template load<6 + i>(from + k * kTileRows * stride + i * kTileRowBytes,
                                            stride);
                Tiles::template dot<kSums + i, 4 + k, 6 + i>();
            });
        });
        for_constants<2>([&]<int i>() {
            Tiles::template store<kSums + i>(to + block * kPanel + i * kTileRows, stride);
        });
    }
};

template <class Tiles>
void attend_on_tiles(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    if (!args.queries.is_bf16) return attend_floats(args, unit, scratch);
    const WholeTiles<Tiles> tiles;
    attend_in<OperandsOn<Tiles>>(args, unit, scratch);
}

}  // namespace kept::KEPT_NS
