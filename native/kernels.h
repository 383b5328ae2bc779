// The kernels every instruction set offers, as plain functions over plain data.
//
// Rows of activations are padded with zeros to a multiple of 32 numbers. A kernel works on a part
// of its units (panels, rows, heads), so that threads can share them; which thread computes a unit
// changes no bit of it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "adapters.h"
#include "code_rows.h"
#include "layout.h"
#include "routes.h"
#include "sampling.h"
#include "top_logits.h"

namespace kept {

enum class Activation { none, silu, gelu, gelu_tanh, relu, clamped_swiglu };

// What becomes of a linear layer's output y.
enum class Epilogue {
    store,     // out = y
    add,       // out += y
    activate,  // act = activation(y)
    gate,      // act = activation(gate) * up, of a gated matrix
    logits,    // out = y, unpadded and capped; and the largest of each row, or so many of them
};

// Rows of numbers that feed a linear layer: bf16, or floats for fp32 weights.
struct ActRows {
    void* data = nullptr;
    std::int64_t stride = 0;
    bool is_bf16 = true;
};

// The largest logit seen and its first index; NaN if any was NaN.
struct Best {
    float value;
    std::int32_t index;
};

// The likelier of two tokens: NaN before anything else, then the lower index among equals.
inline Best likelier(Best a, Best b) {
    const bool nan = a.value != a.value;
    if (nan != (b.value != b.value)) return nan ? a : b;
    if (nan || a.value == b.value) return a.index <= b.index ? a : b;
    return a.value > b.value ? a : b;
}

struct LinearArgs {
    const Weights* weights;
    ActRows in;
    CodeRows codes;  // in place of `in`, for products of whole numbers; else without data
    std::int64_t rows;
    Epilogue epilogue;
    Activation activation;
    float* out;
    std::int64_t out_stride;
    ActRows act;
    Best* best;         // (rows) of this thread
    TopRow* top;        // the same, or null: only the largest is wanted
    float softcap = 0;  // of logits: cap * tanh(y / cap); 0: none
    Addend addend;      // to y, before anything becomes of it
    float scale = 1;    // of that sum, before anything else becomes of it
    // The thread's call before was the same but for its panels: what it has made of a few rows in
    // its scratch is still there.
    bool goes_on = false;
};

struct NormArgs {
    const float* x;
    std::int64_t x_stride, width;  // columns from where x and out.data point to
    std::int64_t padded;           // as many columns of out are filled, with zeros behind the width
    const std::int64_t* rows;      // which row of x each output takes, or null: its own
    const float* weight;
    const float* bias;  // null: root-mean-square norm
    float eps;
    ActRows out;
    bool add = false;  // to what is there, in rows of floats
};

// Rows of floats, times a factor or other rows, to rows that may feed a linear layer. out may be x.
struct RoundArgs {
    const float* x;
    std::int64_t x_stride, width;
    ActRows out;
    float factor = 1;
    const float* by = nullptr;  // null: the factor alone
    std::int64_t by_stride = 0;
};

struct EmbedArgs {
    const Weights* table;
    const float* position_table;  // (context, width), or null
    const std::int64_t *tokens, *positions;
    float* out;
    std::int64_t out_stride;
    float scale = 1;  // of the table's rows
};

enum class Codec { fp32, bf16, fp16, int8, int4 };

// Over one of these, attention computes in fp32, else in bf16.
constexpr bool is_float(Codec codec) {
    return codec == Codec::fp32 || codec == Codec::fp16;
}

// Bytes of the codes, and bf16 scales, of one head.
constexpr std::int64_t code_bytes(Codec codec, std::int64_t head_dim) {
    switch (codec) {
        case Codec::fp32:
            return 4 * head_dim;
        case Codec::bf16:
        case Codec::fp16:
            return 2 * head_dim;
        case Codec::int8:
            return head_dim;
        case Codec::int4:
            return (head_dim + 1) / 2;
    }
    return 0;
}

constexpr std::int64_t num_scales(Codec codec, std::int64_t head_dim) {
    return codec == Codec::int8 ? 1 : codec == Codec::int4 ? (head_dim + 31) / 32 : 0;
}

// Keys or values of one layer: (blocks, G, tokens of a block, D) codes and their scales.
struct Stored {
    Codec codec;
    std::byte* codes;
    std::uint16_t* scales;  // bf16; int8: one a token, int4: one a 32 elements
};

// Keys are turned by hadamard.h before they are coded, and queries with them.
constexpr bool turns_keys(const Stored& keys) {
    return keys.codec == Codec::int4;
}

// Whether queries and weights stay fp32.
constexpr bool computes_in_floats(const Stored& keys, const Stored& values) {
    return is_float(keys.codec) || is_float(values.codec);
}

// Where a layout keeps tokens: token i in entry i % block of block i / block of its sequence's
// table.
//
//   block 64     table 7 2 5     token 70     entry 6 of block 2
//
// Unless it is the only one, a block is a whole number of tiles. Blocks that lie wholly between the
// sinks and the window may be gone: their numbers in the table say nothing.
struct LayoutArgs {
    std::int64_t block, sinks;
    std::int64_t window;  // of what the layout forgets; -1: nothing
};

// The blocks of each sequence, (count, columns); a sequence may need fewer of them.
struct BlockTables {
    const std::int32_t* blocks = nullptr;
    std::int64_t columns = 0;

    const std::int32_t* of(std::int64_t sequence) const { return blocks + sequence * columns; }
};

// The sequences of a step.
struct Sequences {
    std::int64_t count;
    const std::int64_t* starts;        // (count + 1) rows
    BlockTables tables;                // of one layout
    const std::int64_t* lengths;       // (count) with the new tokens
    const std::int32_t* row_sequence;  // (rows) which sequence a row belongs to
};

// head_dim: of queries and keys. value_dim: of values, which lie apart or, in_keys, are the first
// numbers of keys and stored as part of these.
struct AttentionShape {
    std::int64_t heads, kv_heads, head_dim;
    float scale;
    bool causal;
    std::int64_t window;  // -1: none
    std::int64_t sinks;
    float softcap;  // 0: none
    std::int64_t value_dim;
    bool in_keys = false;
    // Groups of heads that share a stored key/value head: 1, or where units go by fewer heads.
    std::int64_t split = 1;

    std::int64_t stored_heads() const { return kv_heads / split; }

    // Numbers in the stored rows that values are read from.
    std::int64_t value_row() const { return in_keys ? head_dim : value_dim; }
};

// Takes a row of queries, keys and values, normalises and rotates them, and stores them.
struct PlaceArgs {
    const float* qkv;
    std::int64_t qkv_stride;
    AttentionShape shape;
    const float *q_norm, *k_norm;  // (D), or one behind the other for each head; or null
    const float* v_norm;           // (D) or null
    float eps;
    std::int64_t norm_stride;       // of these, from head to head; 0: all heads have the same
    bool centred;                   // layer norm without bias, else root-mean-square norm
    bool neighbours;                // elements 2 i and 2 i + 1 turn together, else i and i + R / 2
    const float *cos, *sin;         // (.., rope_stride); null: positions are not rotary
    const std::int64_t* rope_rows;  // row of the tables for each row
    std::int64_t rope_dim;          // of which the tables have half, from rope_begin on
    std::int64_t rope_begin, rope_stride;
    ActRows queries;  // (rows, H * D padded to 32)
    Stored keys, values;
    LayoutArgs layout;
    Sequences sequences;
};

// Takes a row of what queries and keys are made of where all heads attend one latent, norms the
// latent, rotates what turns with the position, and stores the key. C: size of a value, R: what is
// left of a key.
//
//   absorbed   C of each head              what a query multiplies the latent with
//   turning    R of each head, `apart`     what it multiplies with what turns, from `begin` on
//   compressed C and R                     the latent and what turns of it, of the one key
struct PlaceLatentArgs {
    const float* absorbed;
    std::int64_t absorbed_stride;
    const float* turning;
    std::int64_t turning_stride, begin, apart;
    const float* compressed;
    std::int64_t compressed_stride;
    const float* norm;  // (C)
    PlaceArgs to;       // qkv and the norms' weights left out
};

// Rows [first, last) of a sequence, which see chunks [chunk, chunk_end) of its tokens. `partial` is
// where their partial results go, in floats, a head's chunks one behind the other; -1: one unit
// covers all of these chunks, and finishes the rows.
struct AttendRows {
    std::int64_t sequence, first, last, chunk, chunk_end, partial;
};

// A part of one attention: key/value head `kv_head` over chunks [chunk, chunk_end) for rows `begin`
// to `end` of AttendArgs::all_rows. Where several sequences have the same block for a tile, it is
// read once for all of them.
struct AttendUnit {
    std::int64_t begin, end, kv_head, chunk, chunk_end;
};

constexpr std::int64_t kTile = 64;     // tokens walked together, aligned to token 0
constexpr std::int64_t kChunk = 1024;  // tokens after which sums start afresh, and threads split

// What scores take on by distance, key less query: a row for each head, from -(reach + kTile - 1)
// on, so that a tile's are one behind the other; further away it is what it is at the ends. Or a
// slope for each head, times the distance.
struct DistanceBias {
    const float* table = nullptr;   // (H, width()), or null
    const float* slopes = nullptr;  // (H), or null
    std::int64_t reach = 0;

    std::int64_t width() const { return 2 * (reach + kTile) - 1; }
    // Those of a tile of keys, the first of which is so far away.
    const float* of(std::int64_t head, std::int64_t distance) const {
        const std::int64_t first = -(reach + kTile - 1);
        return table + head * width() + std::clamp(distance, first, reach) - first;
    }
};

struct AttendArgs {
    AttentionShape shape;
    ActRows queries;
    Stored keys, values;
    LayoutArgs layout;
    Sequences sequences;
    ActRows out;  // (rows, H * size of a value)
    const AttendRows* all_rows;
    float* partials;  // see attention.h
    DistanceBias bias;
    const float* idle = nullptr;  // (H) scores of attending nothing, or null: there are none
    // The end of all units, and how far apart those are that a thread takes, as things stand: so
    // that it fetches what it comes to next. 0: units come alone.
    const AttendUnit* units_end = nullptr;
    std::int64_t units_apart = 0;
};

constexpr std::int64_t kMaxHeadDim = 1024;
constexpr std::int64_t kMaxReach = 1 << 17;  // of a bias by distance
constexpr std::int64_t kMaxQueries =
    128;  // rows times heads of a group in one unit, if not one row

// Rows one unit of attention takes at most.
constexpr std::int64_t query_rows(std::int64_t heads_per_group) {
    return heads_per_group < kMaxQueries ? kMaxQueries / heads_per_group : 1;
}

// Floats of one partial result: for each query a maximum, a sum, and its padded values.
constexpr std::int64_t partial_floats(std::int64_t queries, std::int64_t value_dim) {
    return queries * (2 + round_up(value_dim, 32));
}

// Queries of one head of rows.
constexpr std::int64_t num_queries_of(const AttentionShape& shape, const AttendRows& rows) {
    return (rows.last - rows.first) * (shape.heads / shape.kv_heads);
}

// Where the partial results of rows lie for one head and chunk, in floats.
constexpr std::int64_t partial_at(const AttentionShape& shape, const AttendRows& rows,
                                  std::int64_t kv_head, std::int64_t chunk) {
    const std::int64_t index = kv_head * (rows.chunk_end - rows.chunk) + chunk - rows.chunk;
    return rows.partial + index * partial_floats(num_queries_of(shape, rows), shape.value_dim);
}

// Inputs between turns of many rows over one panel.
constexpr std::int64_t kSliceInputs = 1024;

// Many rows of a linear layer go through its panels in blocks, and of them so many inputs at a
// time. Where a matrix has more, its panels go in groups, one group through all inputs before the
// next.
constexpr std::int64_t kBlockRows = 252, kBlockInputs = 1024, kBlockPanels = 16;
constexpr std::int64_t kBlockWords = kBlockRows + 4;  // as many rows in whole tiles
constexpr std::int64_t kExpandInputs = 256;           // of a panel, to become words at once
constexpr std::int64_t kFewRows = 16;  // at most, that read weights from memory as they are

// Floats for the words of a few rows.
constexpr std::int64_t few_words(std::int64_t padded_inputs) {
    return kFewRows * (padded_inputs + 1);
}

// Floats of scratch a thread needs.
std::int64_t linear_scratch(const Weights& weights, std::int64_t rows);
std::int64_t attend_scratch(const AttentionShape& shape);

// num_rows of num_in numbers, to codes and an fp32 scale a row (int8) or a bf16 one a group of 32
// (int4).
struct QuantizeArgs {
    Format format;
    const void* source;
    bool is_bf16;  // or fp32
    std::int64_t num_rows, num_in;
    std::int8_t* codes;
    void* scales;
};

// Heads of num_heads x D floats, one behind the other, to stored ones of which they are the first.
struct EncodeArgs {
    Stored to;
    bool turns;  // them first, as int4 keys are
    const float* heads;
    std::int64_t head_dim;
};

// See stream_args.h.
struct ColumnsArgs;
struct MatchArgs;
struct StreamsArgs;
struct SparseArgs;

struct Kernels {
    const char* name;
    void (*linear)(const LinearArgs&, std::int64_t first_panel, std::int64_t last_panel,
                   float* scratch);
    void (*norm)(const NormArgs&, std::int64_t first_row, std::int64_t last_row);
    void (*round)(const RoundArgs&, std::int64_t first_row, std::int64_t last_row);
    void (*embed)(const EmbedArgs&, std::int64_t first_row, std::int64_t last_row);
    // Units are rows times (H + 2 G) heads.
    void (*place)(const PlaceArgs&, std::int64_t first_unit, std::int64_t last_unit);
    // Units are rows times (H + 1) heads.
    void (*place_latent)(const PlaceLatentArgs&, std::int64_t first_unit, std::int64_t last_unit);
    void (*attend)(const AttendArgs&, const AttendUnit&, float* scratch);
    // Joins the partial results of all chunks of one head of rows, and finishes them.
    void (*merge)(const AttendArgs&, const AttendRows&, std::int64_t kv_head);
    // Units are parts of rows.
    void (*combine)(const CombineArgs&, std::int64_t first_unit, std::int64_t last_unit);
    // Writes a row of packed weights as floats, without gate order or bias.
    void (*unpack_row)(const Weights&, std::int64_t row, float* out);
    // Stops at the first number that is not finite and returns where it lies, else -1. The scratch
    // is a padded row.
    std::int64_t (*quantize_rows)(const QuantizeArgs&, std::int64_t first_row,
                                  std::int64_t last_row, float* scratch);
    void (*encode_heads)(const EncodeArgs&, std::int64_t first_head, std::int64_t last_head);
    void (*weigh)(const WeighArgs&, std::int64_t first_chunk, std::int64_t last_chunk);
    // `linear` over rows of codes, and what makes them.
    void (*linear_codes)(const LinearArgs&, std::int64_t first_panel, std::int64_t last_panel,
                         float* scratch);
    void (*encode_rows)(const EncodeRowsArgs&, std::int64_t first_row, std::int64_t last_row);
    // Of adapters: units are ranks, and strips.
    void (*shrink)(const ShrinkArgs&, std::int64_t first_rank, std::int64_t last_rank);
    void (*expand)(const ExpandArgs&, std::int64_t first_strip, std::int64_t last_strip);
    void (*put_columns)(const ColumnsArgs&, std::int64_t first_row, std::int64_t last_row);
    void (*match)(const MatchArgs&, std::int64_t first_row, std::int64_t last_row);
    void (*predict_streams)(const StreamsArgs&, std::int64_t first_row, std::int64_t last_row);
    void (*correct_streams)(const StreamsArgs&, std::int64_t first_row, std::int64_t last_row);
    void (*gate_sparsely)(const SparseArgs&, std::int64_t first_row, std::int64_t last_row);
};

// The kernels of a set of instructions by name, null if this build or CPU lacks them.
const Kernels* find_kernels(const char* name);

}  // namespace kept
