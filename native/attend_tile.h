// One tile of stored keys and values, for all queries of a unit that have it in common.
#pragma once

#include <algorithm>
#include <bit>
#include <type_traits>

#include "sight.h"
#include "tile_codes.h"
#include "tile_softmax.h"
#include "unit_rows.h"
#include "wide_weights.h"

namespace kept::KEPT_NS {

// Whether some query of a tile must not see a value, infinite or NaN, that another one sees. Zero
// times that is NaN, so such a tile cannot be weighed for all queries at once.
inline bool needs_parting(const TileRows& values, TokenSet parting) {
    for (; parting != 0; parting &= parting - 1) {
        const int t = std::countr_zero(parting);
        if (!values.finite(t)) return true;
    }
    return false;
}

// What of a tile the queries of rows [begin, end) see, into s.sees, and what their scores take on,
// into s.biases.
struct SeenTile {
    std::int64_t first_query, last_query;
    TokenSet by_some = 0, by_each = ~TokenSet{0};

    SeenTile(const UnitRows& rows, const AttendScratch& s, const Sight& sight, std::int64_t begin,
             std::int64_t end, std::int64_t token)
        : first_query(rows.queries_before(begin)), last_query(first_query) {
        for (std::int64_t i = begin; i < end; ++i) {
            const AttendRows& of = rows.at(i);
            const std::int64_t length = rows.length(of);
            for (std::int64_t row = of.first; row < of.last; ++row) {
                const std::int64_t query = rows.token_of(of, row);
                const TokenSet seen = sight.by(query, token, length);
                by_some |= seen;
                by_each &= seen;
                std::fill_n(s.sees + last_query, rows.share(), seen);
                for (std::int64_t h = 0; h < rows.share(); ++h)
                    s.biases[last_query + h] = rows.bias(h, token - query);
                last_query += rows.share();
            }
        }
    }
};

// Whether values in bf16 are widened as they are multiplied, whose sums then lie as StoredValues
// has them until order_sums().
template <class Of>
bool widens_values(const AttendArgs& args) {
    return kWidens<Of> && args.values.codec == Codec::bf16 && args.shape.value_dim % kPanel == 0;
}

// One tile and where its queries look for its keys and values.
template <class Of>
struct TileWork {
    const AttendArgs& args;
    const AttendScratch& s;
    const TileRows &keys, &values;
    Fetch next_keys, next_values;

    // What the products need of the tile for so many queries.
    void expand_keys(std::int64_t count) const {
        if (keys_wide())
            with_wide(keys.stored.codec, [&](auto code) {
                expand_wide_keys<decltype(code)>(keys, s.padded, s.staged, s.keys);
            });
        else if (!keys_as_stored(count))
            expand<Of>(keys, true, s.padded, s.staged, s.keys);
    }
    void expand_values(std::int64_t count) const {
        if (values_wide())
            with_wide(values.stored.codec, [&](auto code) {
                expand_wide_values<decltype(code)>(values, s.padded_values, s.staged, s.values);
            });
        else if (!values_as_stored(count))
            expand<Of>(values, false, s.padded_values, s.staged, s.values);
    }
    // Whether a value that is not finite must be kept from those who do not see it.
    bool may_spread() const { return !values_wide(); }

    // Queries [first, last), a turn of them after the other.
    void attend(std::int64_t first, std::int64_t last) {
        const std::int64_t count = last - first, num_turns = (count + kTurn - 1) / kTurn;
        const bool finite = !values_wide() || are_finite(s);
        for (std::int64_t turn = 0; turn < num_turns; ++turn) {
            const std::int64_t begin = first + count * turn / num_turns;
            const std::int64_t end = first + count * (turn + 1) / num_turns;
            if (std::all_of(s.sees + begin, s.sees + end, [](TokenSet seen) { return seen == 0; }))
                continue;
            const auto rows = static_cast<int>(end - begin);
            score(begin, rows, count);
            if (values_wide())
                weigh_wide(begin, rows, finite);
            else
                weigh(begin, rows, count);
            next_keys.bytes = next_values.bytes = 0;  // fetched by now
        }
    }

  private:
    using Act = typename Of::Act;

    bool keys_wide() const { return Of::kWide && is_coded(keys.stored.codec); }
    bool values_wide() const { return Of::kWide && is_coded(values.stored.codec); }
    // Where queries are few, bf16 goes into the products at once, and so do floats.
    bool keys_as_stored(std::int64_t count) const {
        return kTransposesInRegisters && count <= kTurn && is_whole(keys);
    }
    bool values_as_stored(std::int64_t count) const {
        return kWidens<Of> ? widens_values<Of>(args) : count <= 2 * kTurn && is_whole(values);
    }
    static bool is_whole(const TileRows& of) {
        return (Of::kRounds || is_float(of.stored.codec)) && of.head_dim % 64 == 0;
    }
    template <class F>
    static void with_stored(const TileRows& of, const F& f) {
        if constexpr (Of::kRounds)
            f(Bf16Code{});
        else
            with_float_code(of, f);
    }

    void score(std::int64_t begin, int rows, std::int64_t count) {
        if (keys_wide()) return score_wide(begin, rows);
        const auto* queries = reinterpret_cast<const Act*>(s.queries) + begin * s.padded;
        LaterTile ahead = later(next_keys, s.padded / Of::kKeyInputs);
        if constexpr (kTransposesInRegisters)
            if (keys_as_stored(count))
                return with_stored(keys, [&](auto code) {
                    with_rows<kTurn>(rows, ScoreStored<Of, decltype(code)>{
                                               keys.rows, queries, s.padded, s.scores, ahead});
                });
        with_rows<kTurn>(rows, ScoreTurn<Of>{s.keys, queries, s.padded, s.scores, ahead});
    }

    void weigh(std::int64_t begin, int rows, std::int64_t count) {
        auto* weights = reinterpret_cast<Act*>(s.weights);
        float correction[W];
        // Their sum is that of the weights as they are stored, so that rounding does not shift the
        // mean.
        soften<Of::kRounds>(
            args.shape, s, begin, rows, correction,
            [&](TokenSet, int row, const vf* p) { return Of::put(weights + row * kTile, p); });
        LaterTile ahead = later(next_values, kTile / Of::kInputs);
        const auto over = [&](const auto& from) {
            with_rows<kTurn>(rows, WeighTurn<Of, std::decay_t<decltype(from)>>{
                                       from, weights, s.padded_values, correction,
                                       s.state.out + begin * s.padded_values, ahead});
        };
        if (values_as_stored(count))
            return with_stored(
                values, [&](auto code) { over(StoredValues<Of, decltype(code)>{values.rows}); });
        over(Expanded<Of>{s.values, s.padded_values * 4});
    }

    // What the products fetch that go over a tile twice in so many steps, or more often.
    static LaterTile later(const Fetch& next, std::int64_t steps) {
        return {next.p, next.bytes, 2 * steps};
    }

    void score_wide(std::int64_t begin, int rows) {
        LaterTile ahead(next_keys.p, next_keys.bytes, ScoreWide::num_steps(s.padded, rows));
        ScoreWide{s.keys,
                  s.queries + begin * 2 * s.padded,
                  s.query_steps + begin,
                  s.query_starts + begin * s.key_groups,
                  s.padded,
                  s.key_groups,
                  rows,
                  s.scores,
                  ahead}
            .run();
    }

    void weigh_wide(std::int64_t begin, int rows, bool finite) {
        with_wide(values.stored.codec, [&](auto code) {
            using Code = decltype(code);
            LaterTile ahead(next_values.p, next_values.bytes,
                            WeighWide<Code>::num_steps(s.padded_values, rows));
            WideTurn turn;
            float correction[W];
            soften<true>(args.shape, s, begin, rows, correction, KeepWeights{s});
            WidenWeights(s, s.sees + begin, rows, Code::kOffset, finite).to(turn);
            WeighWide<Code>{s.values,    s.weights,       turn.factors,
                            turn.starts, s.padded_values, s.value_groups,
                            rows,        correction,      s.state.out + begin * s.padded_values,
                            ahead}
                .run();
        });
    }
};

// One tile, which begins with `token` and lies in the same block for rows [begin, end).
template <class Of>
void attend_tile(const UnitRows& rows, const AttendScratch& s, const Sight& sight,
                 std::int64_t begin, std::int64_t end, std::int64_t token) {
    const AttendArgs& args = rows.args;
    const SeenTile seen(rows, s, sight, begin, end, token);
    const BlockEntries where = rows.where(rows.at(begin), token);
    const std::int64_t dim = args.shape.head_dim;
    const auto values_of = [&](TokenSet tokens) {
        return TileRows(args.values, where, args.shape.value_dim, args.shape.value_row(), token,
                        tokens);
    };
    const TileRows keys(args.keys, where, dim, dim, token, seen.by_some);
    const TileRows values = values_of(seen.by_some);
    const LaterEntries later = later_entries(rows, begin, token);
    const auto next = [&](const TileRows& of) {
        return Fetch{of.stored.codes + later.first * of.bytes, later.count * of.bytes};
    };
    if (Of::kRounds) {
        if (s.key_groups > 0) read_scales(keys, score_factor(args.shape), s.key_scales);
        if (s.value_groups > 0) read_scales(values, 1.0f, s.value_scales);
    }
    const std::int64_t first = seen.first_query, last = seen.last_query;
    TileWork<Of> work{args, s, keys, values, next(keys), next(values)};
    work.expand_keys(last - first);
    if (!work.may_spread() || !needs_parting(values, seen.by_some & ~seen.by_each)) {
        work.expand_values(last - first);
        work.attend(first, last);
        return;
    }
    const std::int64_t share = rows.share();
    for (std::int64_t q = first; q < last; q += share) {
        const TileRows own = values_of(s.sees[q]);
        TileWork<Of> alone{args, s, keys, own, work.next_keys, work.next_values};
        alone.expand_values(share);
        alone.attend(q, q + share);
    }
}

}  // namespace kept::KEPT_NS
