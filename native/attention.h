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
// A tile of keys and values is expanded once, from whatever codec, to the operands of
// tile_products.h and serves every query of the unit, also of several sequences that share its
// block. Queries go over it a turn at a time, from scores to sums, so that what a turn works on
// stays in the nearest cache. Codes enter the products as they are; their scales multiply scores
// and probabilities. Where keys or values are fp32 or fp16, both are expanded to fp32.
#pragma once

#include <algorithm>

#include "attend_tile.h"

#if defined(KEPT_FLOATS_NS)
namespace kept::KEPT_FLOATS_NS {
// Compiled with the set of instructions that this one adds to, since it adds nothing for floats.
void attend_floats(const AttendArgs& args, const AttendUnit& unit, float* scratch);
}  // namespace kept::KEPT_FLOATS_NS
#endif

namespace kept::KEPT_NS {

// Writes what the queries of `rows` have come to.
inline void put_attended(const AttendArgs& args, const AttendRows& rows, std::int64_t kv_head,
                         const float* sum, const float* out) {
    const AttentionShape& shape = args.shape;
    const std::int64_t share = shape.heads / shape.kv_heads, dim = shape.value_dim;
    const std::int64_t count = num_queries_of(shape, rows), padded = round_up(dim, 32);
    const bool turned = shape.in_keys && turns_keys(args.keys);
    alignas(64) float x[kMaxHeadDim];
    for (std::int64_t q = 0; q < count; ++q, out += padded) {
        const std::int64_t row = rows.first + q / share, head = kv_head * share + q % share;
        const float inverse = 1.0f / sum[q];
        for (std::int64_t d = 0; d < dim; d += W) store(x + d, mul(load(out + d), set1(inverse)));
        if (turned) turn_head(x, dim);
        for (std::int64_t d = 0; d < dim; d += W) {
            if (d + W <= dim) {
                put_act(args.out, row, head * dim + d, load(x + d));
                continue;
            }
            for (std::int64_t i = d; i < dim; ++i) put_one(args.out, row, head * dim + i, x[i]);
        }
    }
}

// Adds the weight of attending nothing to the sums of rows that are finished otherwise.
inline void add_idle(const AttendArgs& args, const AttendRows& rows, std::int64_t kv_head,
                     const float* peak, float* sum) {
    if (!args.idle) return;
    const std::int64_t share = args.shape.heads / args.shape.kv_heads;
    const std::int64_t count = num_queries_of(args.shape, rows);
    for (std::int64_t q = 0; q < count; ++q) {
        const float score = args.idle[kv_head * share + q % share] * kLog2E;
        sum[q] += __builtin_exp2f(score - peak[q]);
    }
}

// Copies a head's query of D padded to 32, or rounds it to wide numbers for keys in codes.
template <class Of>
struct GatherQuery {
    const UnitRows& rows;
    const AttendScratch& s;

    void put(std::int64_t from, std::int64_t query) const {
        const ActRows& queries = rows.args.queries;
        const std::int64_t padded = s.padded;
        auto* to = reinterpret_cast<typename Of::Act*>(s.queries) + query * padded;
        if constexpr (Of::kRounds) {
            const auto* bf16 = static_cast<const std::uint16_t*>(queries.data) + from;
            const Codec codec = rows.args.keys.codec;
            if (Of::kWide && is_coded(codec)) {
                widen(bf16, query, codec);
            } else if constexpr (!Of::kPairs) {
                for (std::int64_t d = 0; d < padded; d += W) store(to + d, load_bf16(bf16 + d));
            } else {
                std::copy_n(bf16, padded, to);
            }
        } else {
            std::copy_n(static_cast<const float*>(queries.data) + from, padded, to);
        }
    }

  private:
    void widen(const std::uint16_t* bf16, std::int64_t query, Codec codec) const {
        alignas(64) float x[kMaxHeadDim];
        for (std::int64_t d = 0; d < s.padded; d += W) store(x + d, load_bf16(bf16 + d));
        s.query_steps[query] = with_wide(codec, [&](auto code) {
            return widen_query<decltype(code)>(x, s.padded, s.key_groups,
                                               s.queries + query * 2 * s.padded,
                                               s.query_starts + query * s.key_groups);
        });
    }
};

// A unit's queries, one behind the other.
template <class Of>
void gather_queries(const UnitRows& rows, const AttendScratch& s) {
    const GatherQuery<Of> gather{rows, s};
    const std::int64_t share = rows.share();
    std::int64_t query = 0;
    for (std::int64_t i = rows.unit.begin; i < rows.unit.end; ++i)
        for (std::int64_t row = rows.at(i).first; row < rows.at(i).last; ++row)
            for (std::int64_t h = 0; h < share; ++h, ++query)
                gather.put(
                    row * rows.args.queries.stride + (rows.unit.kv_head * share + h) * s.padded,
                    query);
}

// Puts sums of each two vectors in order, of which the first holds elements 0, 2, 4, ...
inline void order_sums(float* sums, std::int64_t count) {
    for (float* at = sums; at < sums + count; at += 2 * W) {
        float apart[2 * W];
        std::copy_n(at, 2 * W, apart);
        for (int i = 0; i < W; ++i) at[2 * i] = apart[i], at[2 * i + 1] = apart[W + i];
    }
}

template <class Of>
void attend_chunk(const UnitRows& rows, const AttendScratch& s, std::int64_t chunk,
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
    begin_state(s.state, num_queries, s.padded_values);
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
            attend_tile<Of>(rows, s, sight, i, last, token);
        }
    }
    end_state(s.state, num_queries);
    if (widens_values<Of>(args)) order_sums(s.state.out, num_queries * s.padded_values);
}

inline AttendState state_at(float* partial, std::int64_t num_queries) {
    return {partial, partial + num_queries, partial + 2 * num_queries};
}

// Writes the partial results of a unit's rows for one chunk.
inline void leave_chunk(const UnitRows& rows, const AttendScratch& s, std::int64_t chunk) {
    const AttendArgs& args = rows.args;
    std::int64_t q = 0;
    for (std::int64_t i = rows.unit.begin; i < rows.unit.end; ++i) {
        const AttendRows& of = rows.at(i);
        const std::int64_t count = num_queries_of(args.shape, of);
        if (of.partial >= 0) {
            const AttendState to = state_at(
                args.partials + partial_at(args.shape, of, rows.unit.kv_head, chunk), count);
            std::copy_n(s.state.peak + q, count, to.peak);
            std::copy_n(s.state.sum + q, count, to.sum);
            std::copy_n(s.state.out + q * s.padded_values, count * s.padded_values, to.out);
        }
        q += count;
    }
}

template <class Of>
void attend_in(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    const UnitRows rows{args, unit};
    const std::int64_t num_queries = rows.num_queries();
    const AttentionShape& shape = args.shape;
    // Vectors, and rows of a matrix tile, that straddle cache lines take twice as long to load.
    scratch += (-reinterpret_cast<std::uintptr_t>(scratch) & 63) / sizeof(float);
    // What is expanded to floats is scaled then and there.
    const auto groups = [&](const Stored& stored, std::int64_t dim) {
        return Of::kRounds ? num_scales(stored.codec, dim) : 0;
    };
    const AttendScratch s(scratch, num_queries, shape, groups(args.keys, shape.head_dim),
                          groups(args.values, shape.value_dim));
    gather_queries<Of>(rows, s);
    std::fill_n(s.key_scales, kTile,
                score_factor(args.shape));  // where keys have none of their own
    const bool finishes = rows.any_finished();
    for (std::int64_t chunk = unit.chunk; chunk < unit.chunk_end; ++chunk) {
        attend_chunk<Of>(rows, s, chunk, num_queries);
        leave_chunk(rows, s, chunk);
        if (!finishes) continue;
        if (chunk == unit.chunk) {
            std::copy_n(s.state.peak, num_queries, s.all.peak);
            std::copy_n(s.state.sum, num_queries, s.all.sum);
            std::copy_n(s.state.out, num_queries * s.padded_values, s.all.out);
        } else {
            merge_state(s.all, s.state, num_queries, s.padded_values);
        }
    }
    std::int64_t q = 0;
    for (std::int64_t i = unit.begin; i < unit.end; ++i) {
        if (rows.at(i).partial < 0) {
            add_idle(args, rows.at(i), unit.kv_head, s.all.peak + q, s.all.sum + q);
            put_attended(args, rows.at(i), unit.kv_head, s.all.sum + q,
                         s.all.out + q * s.padded_values);
        }
        q += num_queries_of(args.shape, rows.at(i));
    }
}

#if defined(KEPT_FLOATS_NS)
using KEPT_FLOATS_NS::attend_floats;
#else
void attend_floats(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    using Of = FloatOperands<false>;
    attend_in<Of>(args, unit, scratch);
}
#endif

inline void attend(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    if (args.queries.is_bf16)
        attend_in<Bf16Operands>(args, unit, scratch);
    else
        attend_floats(args, unit, scratch);
}

inline void merge(const AttendArgs& args, const AttendRows& rows, std::int64_t kv_head) {
    const std::int64_t count = num_queries_of(args.shape, rows);
    const auto at = [&](std::int64_t chunk) {
        return state_at(args.partials + partial_at(args.shape, rows, kv_head, chunk), count);
    };
    const AttendState all = at(rows.chunk);
    for (std::int64_t chunk = rows.chunk + 1; chunk < rows.chunk_end; ++chunk)
        merge_state(all, at(chunk), count, round_up(args.shape.value_dim, 32));
    add_idle(args, rows, kv_head, all.peak, all.sum);
    put_attended(args, rows, kv_head, all.sum, all.out);
}

}  // namespace kept::KEPT_NS
