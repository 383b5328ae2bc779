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
// serves every query of the unit. Codes enter the products as they are; their scales multiply
// scores and probabilities. Where keys or values are fp32 or fp16, both are expanded to fp32.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "sight.h"
#include "tile_codes.h"
#include "tile_softmax.h"

namespace kept::KEPT_NS {

inline void put_attended(const AttendArgs& args, const AttendUnit& unit, const float* sum,
                         const float* out, std::int64_t num_queries) {
    const AttentionShape& shape = args.shape;
    const std::int64_t share = shape.heads / shape.kv_heads;
    for (std::int64_t q = 0; q < num_queries; ++q) {
        const std::int64_t row = unit.first + q / share;
        const std::int64_t head = unit.kv_head * share + q % share;
        const float inverse = 1.0f / sum[q];
        for (std::int64_t d = 0; d < shape.head_dim; d += W) {
            const float* from = out + (d / kPanel * num_queries + q) * kPanel + d % kPanel;
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
inline void gather_queries(const AttendArgs& args, const AttendUnit& unit, const AttendScratch& s,
                           std::int64_t num_queries) {
    const std::int64_t share = args.shape.heads / args.shape.kv_heads;
    const std::int64_t bytes = s.padded * (uses_floats(args) ? 4 : 2);
    const auto* from = static_cast<const std::byte*>(args.queries.data);
    const std::int64_t row_bytes = args.queries.stride * (uses_floats(args) ? 4 : 2);
    for (std::int64_t q = 0; q < num_queries; ++q)
        std::memcpy(s.queries + q * bytes,
                    from + (unit.first + q / share) * row_bytes +
                        (unit.kv_head * share + q % share) * bytes,
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

inline void attend_tile(const AttendArgs& args, const AttendUnit& unit, const AttendScratch& s,
                        const Sight& sight, std::int64_t token, std::int64_t num_queries) {
    const AttentionShape& shape = args.shape;
    const std::int64_t sequence = unit.sequence, length = args.sequences.lengths[sequence];
    const BlockEntries where(args.layout, args.sequences.tables, sequence, shape.kv_heads,
                             unit.kv_head, token);
    const std::int64_t offset = length - args.sequences.starts[sequence + 1];
    const std::int64_t first = offset + unit.first, last = offset + unit.last - 1;
    const TokenSet seen = sight.by_any(first, last, token, length);
    const auto rows_of = [&](const Stored& stored, TokenSet of_tokens) {
        return TileRows(stored, where, shape.head_dim, token, of_tokens);
    };
    const TileRows keys = rows_of(args.keys, seen), values = rows_of(args.values, seen);
    const auto expand = [&](const TileRows& from) {
        if (uses_floats(args))
            expand_float_values(from, s.padded, reinterpret_cast<float*>(s.values));
        else
            expand_codes(from, false, s.padded, s.values);
    };
    const auto weigh = [&](std::int64_t begin, std::int64_t end) {
        if (uses_floats(args))
            weigh_tile<ReadFp32>(s, num_queries, begin, end, values.next, kTile * values.bytes);
        else
            weigh_tile<ReadBf16>(s, num_queries, begin, end, values.next, kTile * values.bytes);
    };
    expand(values);
    if (uses_floats(args)) {
        expand_float_keys(keys, s.padded, reinterpret_cast<float*>(s.keys));
        score_tile<ReadFp32>(s, num_queries, keys.next, kTile * keys.bytes);
    } else {
        expand_codes(keys, true, s.padded, s.keys);
        read_scales(keys, s.key_scales);
        read_scales(values, s.value_scales);
        score_tile<ReadBf16>(s, num_queries, keys.next, kTile * keys.bytes);
    }
    const std::int64_t share = shape.heads / shape.kv_heads;
    const float* hidden = nullptr;
    for (std::int64_t q = 0; q < num_queries; ++q) {
        if (q % share == 0) {
            const TokenSet of_query = sight.by(first + q / share, token, length);
            hidden = of_query == ~TokenSet{0} ? nullptr : s.hidden;
            if (hidden) write_hidden(of_query, s.hidden);
        }
        soften(args, s, q, num_queries, hidden);
    }
    const TokenSet parting = seen & ~sight.by_each(first, last, token, length);
    if (!needs_parting(values, parting)) {
        weigh(0, num_queries);
        return;
    }
    for (std::int64_t q = 0; q < num_queries; q += share) {
        expand(rows_of(args.values, sight.by(first + q / share, token, length)));
        weigh(q, q + share);
    }
}

inline void attend_chunk(const AttendArgs& args, const AttendUnit& unit, const AttendScratch& s,
                         std::int64_t chunk, std::int64_t num_queries) {
    const Sight sight(args.shape, args.layout);
    const std::int64_t sequence = unit.sequence, length = args.sequences.lengths[sequence];
    const std::int64_t offset = length - args.sequences.starts[sequence + 1];
    const std::int64_t first_query = offset + unit.first, last_query = offset + unit.last - 1;
    const std::int64_t seen = sight.causal ? last_query + 1 : length;
    const std::int64_t end = std::min((chunk + 1) * kChunk, seen);
    begin_state(s.peak, s.sum, s.out, num_queries, s.padded);
    for (std::int64_t token = chunk * kChunk; token < end; token += kTile)
        if (!sight.skips(token, kTile, first_query))
            attend_tile(args, unit, s, sight, token, num_queries);
}

inline void attend(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    const std::int64_t share = args.shape.heads / args.shape.kv_heads;
    const std::int64_t num_queries = (unit.last - unit.first) * share;
    const std::int64_t dim = args.shape.head_dim;
    // What is expanded to floats is scaled then and there.
    const auto groups = [&](const Stored& stored) {
        return uses_floats(args) ? 0 : num_scales(stored.codec, dim);
    };
    const AttendScratch s(scratch, num_queries, dim, groups(args.keys), groups(args.values));
    gather_queries(args, unit, s, num_queries);
    float* partial = unit.partial < 0 ? nullptr : args.partials + unit.partial;
    for (std::int64_t chunk = unit.chunk; chunk < unit.chunk_end; ++chunk) {
        attend_chunk(args, unit, s, chunk, num_queries);
        if (unit.partial >= 0) {
            std::copy_n(s.peak, num_queries, partial);
            std::copy_n(s.sum, num_queries, partial + num_queries);
            std::copy_n(s.out, num_queries * s.padded, partial + 2 * num_queries);
            partial += partial_floats(num_queries, dim);
        } else if (chunk == unit.chunk) {
            std::copy_n(s.peak, num_queries, s.all_peak);
            std::copy_n(s.sum, num_queries, s.all_sum);
            std::copy_n(s.out, num_queries * s.padded, s.all_out);
        } else {
            merge_state(s.all_peak, s.all_sum, s.all_out, s.peak, s.sum, s.out, num_queries,
                        s.padded);
        }
    }
    if (unit.partial < 0) put_attended(args, unit, s.all_sum, s.all_out, num_queries);
}

inline void merge(const AttendArgs& args, const AttendUnit& unit) {
    const std::int64_t num_queries =
        (unit.last - unit.first) * (args.shape.heads / args.shape.kv_heads);
    const std::int64_t dim = args.shape.head_dim, step = partial_floats(num_queries, dim);
    float* all = args.partials + unit.partial;
    for (std::int64_t chunk = unit.chunk + 1; chunk < unit.chunk_end; ++chunk) {
        const float* next = args.partials + unit.partial + (chunk - unit.chunk) * step;
        merge_state(all, all + num_queries, all + 2 * num_queries, next, next + num_queries,
                    next + 2 * num_queries, num_queries, round_up(dim, 32));
    }
    put_attended(args, unit, all + num_queries, all + 2 * num_queries, num_queries);
}

}  // namespace kept::KEPT_NS
