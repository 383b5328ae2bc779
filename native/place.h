// What happens to a row of queries, keys and values before attention: per-head norms, rotary
// embedding, the turn that int4 keys ask for, and storing keys and values in the cache's codecs.
#pragma once

#include "codecs.h"
#include "hadamard.h"
#include "rows.h"

namespace kept::KEPT_NS {

// Where the tokens of one block of a sequence lie for one key/value head, counted over (blocks, G,
// tokens of a block).
class BlockEntries {
  public:
    // The block that holds `token`, and with it the others of its tile.
    BlockEntries(const LayoutArgs& layout, const BlockTables& tables, std::int64_t sequence,
                 std::int64_t kv_heads, std::int64_t kv_head, std::int64_t token) {
        const std::int64_t index = tables.columns == 1 ? 0 : token / layout.block;
        const std::int64_t head = tables.of(sequence)[index] * kv_heads + kv_head;
        base_ = (head - index) * layout.block;
    }

    std::int64_t of(std::int64_t token) const { return base_ + token; }

  private:
    std::int64_t base_;
};

inline void rotate(float* x, std::int64_t width, const float* cos, const float* sin) {
    const std::int64_t half = width / 2;
    std::int64_t i = 0;
    for (; i + W <= half; i += W) {
        const vf low = load(x + i), high = load(x + half + i);
        const vf c = load(cos + i), s = load(sin + i);
        store(x + i, sub(mul(low, c), mul(high, s)));
        store(x + half + i, fma(low, s, mul(high, c)));
    }
    for (; i < half; ++i) {
        const float low = x[i], high = x[half + i];
        x[i] = low * cos[i] - high * sin[i];
        x[half + i] = high * cos[i] + low * sin[i];
    }
}

// The same of pairs that are neighbours.
inline void rotate_neighbours(float* x, std::int64_t width, const float* cos, const float* sin) {
    for (std::int64_t i = 0; i < width / 2; ++i) {
        const float even = x[2 * i], odd = x[2 * i + 1];
        x[2 * i] = even * cos[i] - odd * sin[i];
        x[2 * i + 1] = odd * cos[i] + even * sin[i];
    }
}

inline void norm_head(const PlaceArgs& args, const float* weight, std::int64_t dim, float* x) {
    const auto count = static_cast<float>(dim);
    const float mean = args.centred ? row_sum(dim, Plain{x}) / count : 0.0f;
    const float square = row_sum(dim, Squares{x, mean}) / count;
    const float inverse = 1.0f / std::sqrt(square + args.eps);
    for (std::int64_t i = 0; i < dim; ++i) x[i] = (x[i] - mean) * inverse * weight[i];
}

// Turns a head by the position of its row.
inline void rotate_head(const PlaceArgs& args, std::int64_t row, float* x) {
    const std::int64_t at = args.rope_rows[row] * args.rope_stride + args.rope_begin;
    if (args.neighbours)
        rotate_neighbours(x, args.rope_dim, args.cos + at, args.sin + at);
    else
        rotate(x, args.rope_dim, args.cos + at, args.sin + at);
}

// Writes a head of queries, of which there is room for a multiple of 32 numbers.
inline void put_query(const PlaceArgs& args, std::int64_t row, std::int64_t head, float* x) {
    const std::int64_t dim = args.shape.head_dim, padded = round_up(dim, 32);
    std::fill(x + dim, x + padded, 0.0f);
    for (std::int64_t i = 0; i < padded; i += W)
        put_act(args.queries, row, head * padded + i, load(x + i));
}

// Where a row's token lies for a key/value head.
inline std::int64_t entry_of(const PlaceArgs& args, std::int64_t row, std::int64_t kv_head) {
    const Sequences& s = args.sequences;
    const std::int64_t sequence = s.row_sequence[row];
    const std::int64_t token = s.lengths[sequence] - s.starts[sequence + 1] + row;
    const BlockEntries where(args.layout, s.tables, sequence, args.shape.kv_heads, kv_head, token);
    return where.of(token);
}

inline void place(const PlaceArgs& args, std::int64_t first_unit, std::int64_t last_unit) {
    const AttentionShape& shape = args.shape;
    const std::int64_t dim = shape.head_dim, heads = shape.heads, keys = shape.kv_heads;
    const std::int64_t per_row = heads + 2 * keys;
    alignas(64) float x[kMaxHeadDim];
    for (std::int64_t unit = first_unit; unit < last_unit; ++unit) {
        const std::int64_t row = unit / per_row, head = unit % per_row;
        std::memcpy(x, args.qkv + row * args.qkv_stride + head * dim,
                    4 * static_cast<std::size_t>(dim));
        const bool is_query = head < heads, is_value = head >= heads + keys;
        const float* weight = is_query ? args.q_norm : is_value ? args.v_norm : args.k_norm;
        const std::int64_t own = is_value ? 0 : is_query ? head : head - heads;
        if (weight) norm_head(args, weight + own * args.norm_stride, dim, x);
        if (!is_value && args.cos) rotate_head(args, row, x);
        if (!is_value && turns_keys(args.keys)) turn_head(x, dim);
        if (is_query) {
            put_query(args, row, head, x);
            continue;
        }
        const Stored& to = is_value ? args.values : args.keys;
        encode(to, entry_of(args, row, (head - heads) % keys), x, dim);
    }
}

inline void encode_heads(const EncodeArgs& args, std::int64_t first, std::int64_t last) {
    const std::int64_t dim = args.head_dim;
    alignas(64) float x[kMaxHeadDim];
    for (std::int64_t head = first; head < last; ++head) {
        std::memcpy(x, args.heads + head * dim, 4 * static_cast<std::size_t>(dim));
        if (args.turns) turn_head(x, dim);
        encode(args.to, head, x, dim);
    }
}

}  // namespace kept::KEPT_NS
