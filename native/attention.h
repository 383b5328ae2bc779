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
// serves every query of the unit. int8 codes enter the products as they are; their scales multiply
// scores and probabilities.
#pragma once

#include <algorithm>
#include <bit>

#include "codecs.h"
#include "lanes_math.h"
#include "linear.h"
#include "place.h"
#include "sight.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kHalves = kTile / kPanel;

// Everything one unit works on, cut from a thread's scratch. Q queries: rows times heads of a
// group.
struct AttendScratch {
    std::int64_t padded;  // D rounded up to 32
    std::int64_t groups;  // scales a token and head
    std::byte *queries, *keys, *values, *weights;
    float *scores, *part;              // (halves, Q, 32)
    float *key_scales, *value_scales;  // (groups, 64)
    float* hidden;                     // (64) 0, or -1 where a query must not see
    float *peak, *sum, *out;           // (Q), (Q), (padded / 32, Q, 32) of this chunk
    float *all_peak, *all_sum, *all_out;
    float* correction;  // (Q)

    AttendScratch(float* at, std::int64_t queries_count, std::int64_t head_dim,
                  std::int64_t num_groups)
        : padded(round_up(head_dim, 32)), groups(num_groups) {
        const auto take = [&](std::int64_t floats) {
            float* taken = at;
            at += round_up(floats, 16);
            return taken;
        };
        const std::int64_t q = queries_count;
        queries = reinterpret_cast<std::byte*>(take(q * padded));
        keys = reinterpret_cast<std::byte*>(take(padded * kTile));
        values = reinterpret_cast<std::byte*>(take(padded * kTile));
        weights = reinterpret_cast<std::byte*>(take(q * kTile * std::max<std::int64_t>(groups, 1)));
        scores = take(q * kTile);
        part = take(q * kTile);
        key_scales = take(groups * kTile);
        value_scales = take(groups * kTile);
        hidden = take(kTile);
        peak = take(q), sum = take(q), out = take(q * padded);
        all_peak = take(q), all_sum = take(q), all_out = take(q * padded);
        correction = take(q);
    }
};

inline bool uses_floats(const AttendArgs& args) {
    return !args.queries.is_bf16;
}

// Zeros in place of tokens that no query of a unit sees: what lies there may be another token's, or
// nothing.
alignas(64) inline constexpr std::byte kNothing[4 * kMaxHeadDim] = {};

// Where the codes of a tile's tokens lie, and which entries they are.
struct TileRows {
    const Stored& stored;
    TokenSet seen;
    std::int64_t bytes, scales;
    std::int64_t entries[kTile];
    const std::byte* rows[kTile];  // of a token not in `seen`: zeros
    const std::byte* next;         // where the next tile begins, as a rule

    TileRows(const Stored& from, const LayoutArgs& layout, std::int64_t slot_head,
             std::int64_t head_dim, std::int64_t token, TokenSet tokens)
        : stored(from),
          seen(tokens),
          bytes(code_bytes(from.codec, head_dim)),
          scales(num_scales(from.codec, head_dim)) {
        const std::int64_t base = slot_head * layout.capacity;
        for (std::int64_t t = 0; t < kTile; ++t) {
            entries[t] = base + entry_of(layout, token + t);
            rows[t] = holds(seen, t) ? from.codes + entries[t] * bytes : kNothing;
        }
        next = from.codes + (entries[kTile - 1] + 1) * bytes;
    }
};

// Scales (groups, 64) of a tile's tokens; 1 where the codec has none, 0 of tokens that are not
// seen. Keys and values may have different codecs: whichever has fewer scales repeats its only one.
inline void read_scales(const TileRows& from, std::int64_t groups, float* out) {
    for (std::int64_t g = 0; g < groups; ++g)
        for (std::int64_t t = 0; t < kTile; ++t) {
            float scale = holds(from.seen, t) ? 1.0f : 0.0f;
            if (from.scales > 0 && holds(from.seen, t))
                scale = bf16_to_float(from.stored.scales[from.entries[t] * from.scales +
                                                         (from.scales == groups ? g : 0)]);
            out[g * kTile + t] = scale;
        }
}

// Keys of a tile as pairs of elements down, tokens across: (halves, padded / 2, 32 tokens) pairs.
template <class Row, bool kWhole>
void expand_keys(const TileRows& from, std::int64_t first, std::int64_t last, std::int64_t head_dim,
                 std::int64_t padded, std::byte* out) {
    for (std::int64_t t = 0; t < kTile; t += W)
        for (std::int64_t d = first; d < last; d += 2 * W) {
            vb rows[W];
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i)
                rows[i] = Row::template read<kWhole>(from.rows[t + i], d, head_dim);
            transpose(rows);
            std::byte* to =
                out + ((t / kPanel) * (padded / 2) + d / 2) * kStepBytes + t % kPanel * 4;
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) store_pairs(to + i * kStepBytes, rows[i]);
        }
}

// Values of a tile as pairs of tokens down, elements across: (padded / 32, 32, 32 elements) pairs.
template <class Row, bool kWhole>
void expand_values(const TileRows& from, std::int64_t first, std::int64_t last,
                   std::int64_t head_dim, std::byte* out) {
    for (std::int64_t d = first; d < last; d += 2 * W) {
        std::byte* to[2];
        for (int i = 0; i < 2; ++i) {
            const std::int64_t at = d + i * W;
            to[i] = out + at / kPanel * (kTile / 2) * kStepBytes + at % kPanel * 4;
        }
        for (std::int64_t t = 0; t < kTile; t += 2) {
            vb pairs[2];
            zip_rows(Row::template read<kWhole>(from.rows[t], d, head_dim),
                     Row::template read<kWhole>(from.rows[t + 1], d, head_dim), pairs);
            for (int i = 0; i < 2; ++i) store_pairs(to[i] + t / 2 * kStepBytes, pairs[i]);
        }
    }
}

template <class Row>
void expand_rows(const TileRows& from, bool are_keys, std::int64_t head_dim, std::int64_t padded,
                 std::byte* out) {
    const std::int64_t whole = head_dim / (2 * W) * (2 * W);
    if (are_keys) {
        expand_keys<Row, true>(from, 0, whole, head_dim, padded, out);
        expand_keys<Row, false>(from, whole, padded, head_dim, padded, out);
    } else {
        expand_values<Row, true>(from, 0, whole, head_dim, out);
        expand_values<Row, false>(from, whole, padded, head_dim, out);
    }
}

inline void expand_codes(const TileRows& from, bool are_keys, std::int64_t head_dim,
                         std::int64_t padded, std::byte* out) {
    switch (from.stored.codec) {
        case Codec::int8:
            return expand_rows<Int8Row>(from, are_keys, head_dim, padded, out);
        case Codec::int4:
            return expand_rows<Int4Row>(from, are_keys, head_dim, padded, out);
        default:
            return expand_rows<Bf16Row>(from, are_keys, head_dim, padded, out);
    }
}

inline void expand_float_keys(const TileRows& from, std::int64_t head_dim, std::int64_t padded,
                              float* out) {
    alignas(64) float x[W][kMaxHeadDim];
    for (std::int64_t t = 0; t < kTile; t += W) {
        for (int i = 0; i < W; ++i) {
            std::fill_n(x[i], padded, 0.0f);
            read_floats(from.stored.codec, from.rows[t + i], head_dim, x[i]);
        }
        for (std::int64_t d = 0; d < padded; d += W) {
            vb rows[W];
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) rows[i] = load_pairs(x[i] + d);
            transpose(rows);
            float* to = out + ((t / kPanel) * padded + d) * kPanel + t % kPanel;
            KEPT_UNROLL_ALL
            for (int i = 0; i < W; ++i) store_pairs(to + i * kPanel, rows[i]);
        }
    }
}

inline void expand_float_values(const TileRows& from, std::int64_t head_dim, std::int64_t padded,
                                float* out) {
    alignas(64) float x[kMaxHeadDim];
    std::fill_n(x, padded, 0.0f);
    for (std::int64_t t = 0; t < kTile; ++t) {
        read_floats(from.stored.codec, from.rows[t], head_dim, x);
        for (std::int64_t d = 0; d < padded; d += kPanel)
            std::memcpy(out + (d / kPanel * kTile + t) * kPanel, x + d, 4 * kPanel);
    }
}

// Scores of one query over a tile become its weights; the state moves on to the new peak.
inline void soften(const AttendArgs& args, const AttendScratch& s, std::int64_t q,
                   std::int64_t num_queries, const float* hidden) {
    const AttentionShape& shape = args.shape;
    constexpr int kVectors = kTile / W;
    const bool floats = uses_floats(args);
    vf x[kVectors];
    vf top = set1(-std::numeric_limits<float>::infinity());
    for (int i = 0; i < kVectors; ++i) {
        const std::int64_t t = i * W;
        x[i] = load(s.scores + (t / kPanel * num_queries + q) * kPanel + t % kPanel);
        if (s.groups == 1) x[i] = mul(x[i], load(s.key_scales + t));
        x[i] = mul(x[i], set1(shape.scale));
        if (shape.softcap > 0)
            x[i] = mul(set1(shape.softcap), tanh(div(x[i], set1(shape.softcap))));
        // Not a sum: what is hidden may be infinite or NaN.
        if (hidden)
            x[i] = where_less(load(hidden + t), zero(),
                              set1(-std::numeric_limits<float>::infinity()), x[i]);
        top = max(top, x[i]);
    }
    const float before = s.peak[q], peak = std::max(before, reduce_max(top));
    // Nothing seen so far: any finite peak gives weights of zero.
    const float base = peak == -std::numeric_limits<float>::infinity() ? 0.0f : peak;
    s.correction[q] = exp_of(before - base);
    s.peak[q] = peak;
    vf total = zero();
    const std::int64_t groups = std::max<std::int64_t>(s.groups, 1);
    for (int i = 0; i < kVectors; ++i) {
        const std::int64_t t = i * W;
        vf p = exp(sub(x[i], set1(base)));
        if (floats) {
            store(reinterpret_cast<float*>(s.weights) + q * kTile + t, p);
            total = add(total, p);
            continue;
        }
        auto* to = reinterpret_cast<std::uint16_t*>(s.weights);
        if (s.groups == 0) {
            // The sum is that of the rounded weights, so that rounding does not shift the mean.
            store_bf16(to + q * kTile + t, p);
            total = add(total, load_bf16(to + q * kTile + t));
            continue;
        }
        total = add(total, p);
        for (std::int64_t g = 0; g < groups; ++g) {
            vf scaled = mul(p, load(s.value_scales + g * kTile + t));
            if (hidden) scaled = where_less(load(hidden + t), zero(), zero(), scaled);
            store_bf16(to + (g * num_queries + q) * kTile + t, scaled);
        }
    }
    s.sum[q] = s.sum[q] * s.correction[q] + reduce_add(total);
}

template <class Read>
struct TileTurns {
    using Act = typename Read::Act;
    // c (rows, 32) = or += a (rows, inputs) b (inputs, 32)
    static void run(const Act* a, std::int64_t a_stride, const std::byte* b, std::int64_t inputs,
                    float* c, bool resume, std::int64_t rows, const std::byte* ahead,
                    std::int64_t ahead_bytes) {
        turns<Read, false>({b, a, a_stride, inputs, c, resume, ahead, 0, nullptr}, rows,
                           ahead_bytes);
    }
};

template <class Read>
void score_tile(const AttendScratch& s, std::int64_t num_queries, const std::byte* ahead,
                std::int64_t ahead_bytes) {
    using Act = typename Read::Act;
    const auto* queries = reinterpret_cast<const Act*>(s.queries);
    const std::int64_t half_bytes = s.padded / Read::kUnitInputs * kStepBytes;
    for (std::int64_t half = 0; half < kHalves; ++half) {
        const std::byte* keys = s.keys + half * half_bytes;
        float* scores = s.scores + half * num_queries * kPanel;
        const std::byte* next = ahead + half * ahead_bytes / kHalves;
        if (s.groups <= 1) {
            TileTurns<Read>::run(queries, s.padded, keys, s.padded, scores, false, num_queries,
                                 next, ahead_bytes / kHalves);
            continue;
        }
        for (std::int64_t g = 0; g < s.groups; ++g) {
            TileTurns<Read>::run(queries + g * kGroup, s.padded,
                                 keys + g * kGroup / Read::kUnitInputs * kStepBytes, kGroup, s.part,
                                 false, num_queries, next, ahead_bytes / kHalves / s.groups);
            const float* scales = s.key_scales + g * kTile + half * kPanel;
            for (std::int64_t i = 0; i < num_queries * kPanel; i += W) {
                const vf scale = load(scales + i % kPanel), x = load(s.part + i);
                store(scores + i, g == 0 ? mul(x, scale) : fma(x, scale, load(scores + i)));
            }
        }
    }
}

// Adds a tile's values to the sums of queries [first, last).
template <class Read>
void weigh_tile(const AttendScratch& s, std::int64_t num_queries, std::int64_t first,
                std::int64_t last, const std::byte* ahead, std::int64_t ahead_bytes) {
    using Act = typename Read::Act;
    const std::int64_t panels = s.padded / kPanel;
    const std::int64_t panel_size = kTile / Read::kUnitInputs * kStepBytes;
    for (std::int64_t panel = 0; panel < panels; ++panel) {
        float* out = s.out + (panel * num_queries + first) * kPanel;
        for (std::int64_t q = first; q < last; ++q) {
            if (s.correction[q] == 1.0f) continue;
            for (int v = 0; v < NV; ++v) {
                float* at = out + (q - first) * kPanel + v * W;
                store(at, mul(load(at), set1(s.correction[q])));
            }
        }
        const std::int64_t group = s.groups > 1 ? panel : 0;
        const auto* weights =
            reinterpret_cast<const Act*>(s.weights) + (group * num_queries + first) * kTile;
        TileTurns<Read>::run(weights, kTile, s.values + panel * panel_size, kTile, out, true,
                             last - first, ahead + panel * ahead_bytes / panels,
                             ahead_bytes / panels);
    }
}

inline void begin_state(float* peak, float* sum, float* out, std::int64_t num_queries,
                        std::int64_t padded) {
    std::fill_n(peak, num_queries, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, num_queries, 0.0f);
    std::fill_n(out, num_queries * padded, 0.0f);
}

// Adds a chunk's state to that of the chunks before it.
inline void merge_state(float* peak, float* sum, float* out, const float* next_peak,
                        const float* next_sum, const float* next_out, std::int64_t num_queries,
                        std::int64_t padded) {
    for (std::int64_t q = 0; q < num_queries; ++q) {
        const float top = std::max(peak[q], next_peak[q]);
        if (top == -std::numeric_limits<float>::infinity()) continue;
        const float a = exp_of(peak[q] - top), b = exp_of(next_peak[q] - top);
        peak[q] = top;
        sum[q] = sum[q] * a + next_sum[q] * b;
        for (std::int64_t panel = 0; panel < padded / kPanel; ++panel)
            for (int v = 0; v < NV; ++v) {
                const std::int64_t at = (panel * num_queries + q) * kPanel + v * W;
                store(out + at, fma(load(next_out + at), set1(b), mul(load(out + at), set1(a))));
            }
    }
}

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
inline bool needs_parting(const TileRows& values, TokenSet parting, std::int64_t head_dim) {
    for (; parting != 0; parting &= parting - 1) {
        const int t = std::countr_zero(parting);
        if (!all_finite(values.stored, values.rows[t], head_dim)) return true;
    }
    return false;
}

inline void attend_tile(const AttendArgs& args, const AttendUnit& unit, const AttendScratch& s,
                        const Sight& sight, std::int64_t token, std::int64_t num_queries) {
    const AttentionShape& shape = args.shape;
    const std::int64_t sequence = unit.sequence, length = args.sequences.lengths[sequence];
    const std::int64_t slot_head = args.sequences.slots[sequence] * shape.kv_heads + unit.kv_head;
    const std::int64_t offset = length - args.sequences.starts[sequence + 1];
    const std::int64_t first = offset + unit.first, last = offset + unit.last - 1;
    const TokenSet seen = sight.by_any(first, last, token, length);
    const auto rows_of = [&](const Stored& stored, TokenSet of_tokens) {
        return TileRows(stored, args.layout, slot_head, shape.head_dim, token, of_tokens);
    };
    const TileRows keys = rows_of(args.keys, seen), values = rows_of(args.values, seen);
    const auto expand = [&](const TileRows& from) {
        if (uses_floats(args))
            expand_float_values(from, shape.head_dim, s.padded, reinterpret_cast<float*>(s.values));
        else
            expand_codes(from, false, shape.head_dim, s.padded, s.values);
    };
    const auto weigh = [&](std::int64_t begin, std::int64_t end) {
        if (uses_floats(args))
            weigh_tile<ReadFp32>(s, num_queries, begin, end, values.next, kTile * values.bytes);
        else
            weigh_tile<ReadBf16>(s, num_queries, begin, end, values.next, kTile * values.bytes);
    };
    expand(values);
    if (uses_floats(args)) {
        expand_float_keys(keys, shape.head_dim, s.padded, reinterpret_cast<float*>(s.keys));
        score_tile<ReadFp32>(s, num_queries, keys.next, kTile * keys.bytes);
    } else {
        expand_codes(keys, true, shape.head_dim, s.padded, s.keys);
        if (s.groups > 0) {
            read_scales(keys, s.groups, s.key_scales);
            read_scales(values, s.groups, s.value_scales);
        }
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
    if (!needs_parting(values, parting, shape.head_dim)) {
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
    const std::int64_t groups =
        std::max(num_scales(args.keys.codec, dim), num_scales(args.values.codec, dim));
    const AttendScratch s(scratch, num_queries, dim, groups);
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
