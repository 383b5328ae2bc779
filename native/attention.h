// Softmax attention over stored keys and values, in the codec they are stored in.
//
// Tokens are walked in tiles of 64, aligned to the sequence's first token, with one online softmax
// (Milakov and Gimelshein 2018; Dao et al. 2022) that starts afresh at every chunk of 1,024; chunks
// are merged in ascending order. A query goes through the same operations in the same order whether
// it comes alone or among others, whether one thread walks all chunks or each has its own.
//
//   tokens   0 ........ 1023 | 1024 ...... 2047 | 2048 ...       tile 64, chunk 1024
//   state      m, l, o       |     m, l, o      |  m, l, o       merged left to right
//
// A tile of keys and values is expanded once, from whatever codec, to the operands of tile.h and
// serves every query of the unit, also of several sequences that share its block. Codes enter the
// products as they are; their scales multiply scores and probabilities. Where keys or values are
// fp32 or fp16, both are expanded to fp32.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "sight.h"
#include "tile_codes.h"
#include "tile_softmax.h"

namespace kept::KEPT_NS {

// Rows of a unit, and where the queries of each begin among those of all.
struct UnitRows {
    const AttendArgs& args;
    const AttendUnit& unit;

    std::int64_t share() const { return args.shape.heads / args.shape.kv_heads; }
    const AttendRows& at(std::int64_t i) const { return args.all_rows[i]; }
    std::int64_t num_queries() const { return queries_before(unit.end); }
    // Whether some of them are finished here, and not by a merge.
    bool any_finished() const {
        return std::any_of(args.all_rows + unit.begin, args.all_rows + unit.end,
                           [](const AttendRows& of) { return of.partial < 0; });
    }
    std::int64_t queries_before(std::int64_t index) const {
        std::int64_t count = 0;
        for (std::int64_t i = unit.begin; i < index; ++i)
            count += num_queries_of(args.shape, at(i));
        return count;
    }
    std::int64_t length(const AttendRows& rows) const {
        return args.sequences.lengths[rows.sequence];
    }
    // The token that a row is of, of those of one sequence.
    std::int64_t token_of(const AttendRows& rows, std::int64_t row) const {
        return length(rows) - args.sequences.starts[rows.sequence + 1] + row;
    }
    BlockEntries where(const AttendRows& rows, std::int64_t token) const {
        return {args.layout,         args.sequences.tables, rows.sequence,
                args.shape.kv_heads, unit.kv_head,          token};
    }
};

// Writes what queries from `begin` on, of num_queries in `sum` and `out`, have come to for `rows`.
inline void put_attended(const AttendArgs& args, const AttendRows& rows, std::int64_t kv_head,
                         const float* sum, const float* out, std::int64_t begin,
                         std::int64_t num_queries) {
    const AttentionShape& shape = args.shape;
    const std::int64_t share = shape.heads / shape.kv_heads, count = num_queries_of(shape, rows);
    for (std::int64_t q = 0; q < count; ++q) {
        const std::int64_t row = rows.first + q / share, head = kv_head * share + q % share;
        const float inverse = 1.0f / sum[begin + q];
        for (std::int64_t d = 0; d < shape.head_dim; d += W) {
            const float* from = out + (d / kPanel * num_queries + begin + q) * kPanel + d % kPanel;
            const vf x = mul(load(from), set1(inverse));
            if (d + W <= shape.head_dim) {
                put_act(args.out, row, head * shape.head_dim + d, x);
                continue;
            }
            float lanes[W];
            store(lanes, x);
            for (std::int64_t i = 0; d + i < shape.head_dim; ++i)
                put_one(args.out, row, head * shape.head_dim + d + i, lanes[i]);
        }
    }
}

// Copies a unit's queries together, a head's rows of D padded to 32.
inline void gather_queries(const UnitRows& rows, const AttendScratch& s) {
    const AttendArgs& args = rows.args;
    const std::int64_t size = uses_floats(args) ? 4 : 2, share = rows.share();
    const std::int64_t bytes = s.padded * size, row_bytes = args.queries.stride * size;
    const auto* from = static_cast<const std::byte*>(args.queries.data);
    std::byte* to = s.queries;
    for (std::int64_t i = rows.unit.begin; i < rows.unit.end; ++i)
        for (std::int64_t row = rows.at(i).first; row < rows.at(i).last; ++row)
            for (std::int64_t h = 0; h < share; ++h, to += bytes)
                std::memcpy(to, from + row * row_bytes + (rows.unit.kv_head * share + h) * bytes,
                            static_cast<std::size_t>(bytes));
}

// Whether some query of a tile must not see a value, infinite or NaN, that another one sees. Zero
// times that is NaN, so such a tile cannot be weighed for all queries at once.
inline bool needs_parting(const TileRows& values, TokenSet parting) {
    for (; parting != 0; parting &= parting - 1) {
        const int t = std::countr_zero(parting);
        if (!values.finite(t)) return true;
    }
    return false;
}

// One tile, which begins with `token` and lies in the same block for rows [begin, end).
inline void attend_tile(const UnitRows& rows, const AttendScratch& s, const Sight& sight,
                        std::int64_t begin, std::int64_t end, std::int64_t token,
                        std::int64_t num_queries) {
    const AttendArgs& args = rows.args;
    const std::int64_t share = rows.share(), first_query = rows.queries_before(begin);
    TokenSet seen = 0, by_each = ~TokenSet{0};
    std::int64_t last_query = first_query, longest = 0;
    for (std::int64_t i = begin; i < end; ++i) {
        const AttendRows& of = rows.at(i);
        const std::int64_t length = rows.length(of);
        const std::int64_t first = rows.token_of(of, of.first);
        const std::int64_t last = rows.token_of(of, of.last - 1);
        seen |= sight.by_any(first, last, token, length);
        by_each &= sight.by_each(first, last, token, length);
        last_query += num_queries_of(args.shape, of);
        longest = std::max(longest, length);
    }
    const BlockEntries where = rows.where(rows.at(begin), token);
    const auto rows_of = [&](const Stored& stored, TokenSet tokens) {
        return TileRows(stored, where, args.shape.head_dim, token, tokens);
    };
    const TileRows keys = rows_of(args.keys, seen), values = rows_of(args.values, seen);
    // What is fetched on the way: the same rows' next tile.
    const bool goes_on = token + kTile < longest && end - begin == 1;
    const std::int64_t next =
        goes_on ? rows.where(rows.at(begin), token + kTile).of(token + kTile) : where.of(token);
    const std::byte* next_keys = args.keys.codes + next * keys.bytes;
    const std::byte* next_values = args.values.codes + next * values.bytes;
    const auto expand = [&](const TileRows& from) {
        if (uses_floats(args))
            expand_float_values(from, s.padded, reinterpret_cast<float*>(s.values));
        else
            expand_codes(from, false, s.padded, s.values);
    };
    const auto weigh = [&](std::int64_t first, std::int64_t last) {
        const std::int64_t bytes = kTile * values.bytes;
        if (uses_floats(args))
            weigh_tile<ReadFp32>(s, num_queries, first, last, next_values, bytes);
        else
            weigh_tile<ReadBf16>(s, num_queries, first, last, next_values, bytes);
    };
    expand(values);
    if (uses_floats(args)) {
        expand_float_keys(keys, s.padded, reinterpret_cast<float*>(s.keys));
        score_tile<ReadFp32>(s, num_queries, first_query, last_query, next_keys,
                             kTile * keys.bytes);
    } else {
        expand_codes(keys, true, s.padded, s.keys);
        read_scales(keys, s.key_scales);
        read_scales(values, s.value_scales);
        score_tile<ReadBf16>(s, num_queries, first_query, last_query, next_keys,
                             kTile * keys.bytes);
    }
    // Calls f with the first of each row's queries, the row's token, and what they see.
    const auto for_each_row = [&](const auto& f) {
        std::int64_t q = first_query;
        for (std::int64_t i = begin; i < end; ++i) {
            const AttendRows& of = rows.at(i);
            for (std::int64_t row = of.first; row < of.last; ++row, q += share) {
                const std::int64_t query = rows.token_of(of, row);
                f(q, query, sight.by(query, token, rows.length(of)));
            }
        }
    };
    const auto bias_of = [&](std::int64_t head, std::int64_t query) {
        return args.bias.table ? args.bias.of(head, token - query) : nullptr;
    };
    for_each_row([&](std::int64_t first, std::int64_t query, TokenSet of_query) {
        const float* hidden = of_query == ~TokenSet{0} ? nullptr : s.hidden;
        if (hidden) write_hidden(of_query, s.hidden);
        for (std::int64_t h = 0; h < share; ++h)
            soften(args, s, first + h, num_queries, hidden,
                   bias_of(rows.unit.kv_head * share + h, query));
    });
    if (!needs_parting(values, seen & ~by_each)) {
        weigh(first_query, last_query);
        return;
    }
    for_each_row([&](std::int64_t first, std::int64_t, TokenSet of_query) {
        expand(rows_of(args.values, of_query));
        weigh(first, first + share);
    });
}

inline void attend_chunk(const UnitRows& rows, const AttendScratch& s, std::int64_t chunk,
                         std::int64_t num_queries) {
    const AttendArgs& args = rows.args;
    const Sight sight(args.shape, args.layout);
    const auto end_of = [&](const AttendRows& of) {
        const std::int64_t seen =
            sight.causal ? rows.token_of(of, of.last - 1) + 1 : rows.length(of);
        return std::min((chunk + 1) * kChunk, seen);
    };
    const auto takes_part = [&](const AttendRows& of, std::int64_t token) {
        return token < end_of(of) && !sight.skips(token, kTile, rows.token_of(of, of.first));
    };
    begin_state(s.peak, s.sum, s.out, num_queries, s.padded);
    std::int64_t end = 0;
    for (std::int64_t i = rows.unit.begin; i < rows.unit.end; ++i)
        end = std::max(end, end_of(rows.at(i)));
    for (std::int64_t token = chunk * kChunk; token < end; token += kTile) {
        for (std::int64_t i = rows.unit.begin, last; i < rows.unit.end; i = last) {
            last = i + 1;
            if (!takes_part(rows.at(i), token)) continue;
            const std::int64_t entry = rows.where(rows.at(i), token).of(token);
            while (last < rows.unit.end && takes_part(rows.at(last), token) &&
                   rows.where(rows.at(last), token).of(token) == entry)
                ++last;
            attend_tile(rows, s, sight, i, last, token, num_queries);
        }
    }
}

// Writes the partial results of a unit's rows for one chunk.
inline void leave_chunk(const UnitRows& rows, const AttendScratch& s, std::int64_t chunk,
                        std::int64_t num_queries) {
    const AttendArgs& args = rows.args;
    std::int64_t q = 0;
    for (std::int64_t i = rows.unit.begin; i < rows.unit.end; ++i) {
        const AttendRows& of = rows.at(i);
        const std::int64_t count = num_queries_of(args.shape, of);
        if (of.partial >= 0) {
            float* to = args.partials + partial_at(args.shape, of, rows.unit.kv_head, chunk);
            std::copy_n(s.peak + q, count, to);
            std::copy_n(s.sum + q, count, to + count);
            for (std::int64_t panel = 0; panel < s.padded / kPanel; ++panel)
                std::copy_n(s.out + (panel * num_queries + q) * kPanel, count * kPanel,
                            to + 2 * count + panel * count * kPanel);
        }
        q += count;
    }
}

inline void attend(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    const UnitRows rows{args, unit};
    const std::int64_t num_queries = rows.num_queries(), dim = args.shape.head_dim;
    // What is expanded to floats is scaled then and there.
    const auto groups = [&](const Stored& stored) {
        return uses_floats(args) ? 0 : num_scales(stored.codec, dim);
    };
    const AttendScratch s(scratch, num_queries, dim, groups(args.keys), groups(args.values));
    gather_queries(rows, s);
    const bool finishes = rows.any_finished();
    for (std::int64_t chunk = unit.chunk; chunk < unit.chunk_end; ++chunk) {
        attend_chunk(rows, s, chunk, num_queries);
        leave_chunk(rows, s, chunk, num_queries);
        if (!finishes) continue;
        if (chunk == unit.chunk) {
            std::copy_n(s.peak, num_queries, s.all_peak);
            std::copy_n(s.sum, num_queries, s.all_sum);
            std::copy_n(s.out, num_queries * s.padded, s.all_out);
        } else {
            merge_state(s.all_peak, s.all_sum, s.all_out, s.peak, s.sum, s.out, num_queries,
                        s.padded);
        }
    }
    std::int64_t q = 0;
    for (std::int64_t i = unit.begin; i < unit.end; ++i) {
        if (rows.at(i).partial < 0)
            put_attended(args, rows.at(i), unit.kv_head, s.all_sum, s.all_out, q, num_queries);
        q += num_queries_of(args.shape, rows.at(i));
    }
}

inline void merge(const AttendArgs& args, const AttendRows& rows, std::int64_t kv_head) {
    const std::int64_t count = num_queries_of(args.shape, rows), dim = args.shape.head_dim;
    const auto at = [&](std::int64_t chunk) {
        return args.partials + partial_at(args.shape, rows, kv_head, chunk);
    };
    float* all = at(rows.chunk);
    for (std::int64_t chunk = rows.chunk + 1; chunk < rows.chunk_end; ++chunk) {
        const float* next = at(chunk);
        merge_state(all, all + count, all + 2 * count, next, next + count, next + 2 * count, count,
                    round_up(dim, 32));
    }
    put_attended(args, rows, kv_head, all + count, all + 2 * count, 0, count);
}

}  // namespace kept::KEPT_NS
