// Attention over keys and values in every codec.
#include "held.h"

namespace kept {
namespace {

struct Case {
    std::int64_t length, count, heads, kv_heads, dim;  // of which `count` tokens are new
    bool causal = true;
    std::int64_t window = -1, sinks = 0;
    float softcap = 0;
    bool biased = false;
};

constexpr Case kCases[] = {
    {1, 1, 1, 1, 64},
    {150, 37, 4, 1, 64},
    {130, 1, 14, 2, 64},
    {70, 5, 2, 2, 24},
    {200, 3, 3, 1, 96, true, 50, 4},
    {90, 90, 2, 1, 128, false},
    {190, 4, 2, 1, 64, true, -1, 0, 20},
    {300, 9, 4, 2, 80, true, -1, 0, 0, true},
    {200, 9, 2, 2, 40, true, -1, 0, 0, true},
    {2100, 3, 2, 1, 64},
};

constexpr std::int64_t kBlock = 64;

// One side of a layer in blocks that lie in reverse; what holds no token holds NaN.
struct Side {
    Codec codec;
    std::vector<std::byte> codes;
    std::vector<std::uint16_t> scales;
    float largest = 0;

    Side(const Kernels& portable, Random& random, Codec of, const Case& c,
         const std::vector<std::int32_t>& blocks)
        : codec(of) {
        const auto entries = static_cast<std::int64_t>(blocks.size()) * c.kv_heads * kBlock;
        const std::int64_t bytes = code_bytes(codec, c.dim), num = num_scales(codec, c.dim);
        codes.assign(static_cast<std::size_t>(entries * bytes), std::byte{0xff});
        scales.assign(static_cast<std::size_t>(entries * num), 0xffff);
        for (std::int64_t token = 0; token < c.length; ++token)
            for (std::int64_t head = 0; head < c.kv_heads; ++head) {
                const auto x = random.normals(c.dim);
                for (const float number : x) largest = std::max(largest, std::fabs(number));
                const std::int64_t block = blocks[static_cast<std::size_t>(token / kBlock)];
                const std::int64_t at = (block * c.kv_heads + head) * kBlock + token % kBlock;
                const Stored to{codec, codes.data() + at * bytes, scales.data() + at * num};
                portable.encode_heads({to, false, x.data(), c.dim}, 0, 1);
            }
    }
    Stored stored() { return {codec, codes.data(), scales.data()}; }
};

struct Attention {
    const Case& c;
    std::vector<std::int32_t> blocks;
    Side keys, values;
    Rows queries;
    std::vector<float> bias, idle;

    static std::vector<std::int32_t> reversed(std::int64_t length) {
        std::vector<std::int32_t> found(static_cast<std::size_t>((length + kBlock - 1) / kBlock));
        for (std::size_t i = 0; i < found.size(); ++i)
            found[i] = static_cast<std::int32_t>(found.size() - 1 - i);
        return found;
    }

    Attention(const Kernels& portable, Random& random, const Case& of, Codec key, Codec value)
        : c(of),
          blocks(reversed(of.length)),
          keys(portable, random, key, of, blocks),
          values(portable, random, value, of, blocks),
          queries(of.count, of.heads * round_up(of.dim, 32),
                  !computes_in_floats(keys.stored(), values.stored())) {
        const std::int64_t padded = round_up(c.dim, 32);
        for (std::int64_t row = 0; row < c.count; ++row)
            for (std::int64_t i = 0; i < c.heads * padded; ++i)
                if (i % padded < c.dim) queries.put(row, i, random.normal());
        if (c.biased) bias = random.normals(c.heads * table().width());
        if (c.window >= 0) idle = random.normals(c.heads);
        if (table().slopes)
            for (float& slope : bias) slope *= 0.02f;
    }
    // A table, or of heads that share keys a slope each.
    DistanceBias table() const {
        if (c.heads > c.kv_heads) return {nullptr, bias.data(), 0};
        return {bias.data(), nullptr, 40};
    }

    // The outputs of rows from `first` on. merged: chunks by themselves, then joined.
    Rows on(const Kernels& kernels, std::int64_t first, std::int64_t last, bool merged) {
        Rows out(c.count, c.heads * c.dim, false);
        const std::int64_t starts[] = {0, c.count}, lengths[] = {c.length};
        const std::vector<std::int32_t> row_sequence(static_cast<std::size_t>(c.count), 0);
        AttendArgs args{};
        const float scale = 1 / std::sqrt(static_cast<float>(c.dim));
        args.shape = {c.heads,  c.kv_heads, c.dim,     scale, c.causal,
                      c.window, c.sinks,    c.softcap, c.dim};
        args.queries = queries.from(), args.keys = keys.stored(), args.values = values.stored();
        args.layout = {kBlock, 0, -1}, args.out = out.from();
        const auto columns = static_cast<std::int64_t>(blocks.size());
        args.sequences = {1, starts, {blocks.data(), columns}, lengths, row_sequence.data()};
        if (c.biased) args.bias = table();
        if (!idle.empty()) args.idle = idle.data();
        std::vector<float> scratch = zeros<float>(attend_scratch(args.shape));
        const std::int64_t most = query_rows(c.heads / c.kv_heads);
        const std::int64_t chunks = (c.length + kChunk - 1) / kChunk;
        for (std::int64_t row = first; row < last; row += most) {
            const AttendRows rows{0, row, std::min(row + most, last), 0, chunks, merged ? 0 : -1};
            args.all_rows = &rows;
            const std::int64_t size = partial_floats(num_queries_of(args.shape, rows), c.dim);
            std::vector<float> partials = zeros<float>(c.kv_heads * chunks * size);
            args.partials = partials.data();
            for (std::int64_t head = 0; head < c.kv_heads; ++head) {
                for (std::int64_t chunk = 0; merged && chunk < chunks; ++chunk)
                    kernels.attend(args, {0, 1, head, chunk, chunk + 1}, scratch.data());
                if (merged)
                    kernels.merge(args, rows, head);
                else
                    kernels.attend(args, {0, 1, head, 0, chunks}, scratch.data());
            }
        }
        return out;
    }
};

void hold(const Case& c, Codec key, Codec value, const Kernels& kernels, const Kernels& portable,
          Random& random) {
    const std::string what = std::string("attention over ") + name_of(key) + ", " + name_of(value);
    Attention attention(portable, random, c, key, value);
    const Rows found = attention.on(kernels, 0, c.count, false);
    const Rows expected = attention.on(portable, 0, c.count, false);
    const double bound = attention.values.largest * (attention.queries.is_bf16 ? 0x1p-8 : 0x1p-16);
    for (std::int64_t row = 0; row < c.count; ++row)
        for (std::int64_t i = 0; i < found.width; ++i)
            require_near(found.get(row, i), expected.get(row, i), bound,
                         what + " of one set and of plain C++");
    require(same_bits(found, attention.on(kernels, 0, c.count, true)),
            what + ": chunks by themselves and in one go");
    const Rows alone = attention.on(kernels, c.count - 1, c.count, false);
    for (std::int64_t i = 0; i < found.width; ++i)
        require(alone.get(c.count - 1, i) == found.get(c.count - 1, i),
                what + ": a row alone and among others");
}

}  // namespace

void hold_attention(const Kernels& kernels, const Kernels& portable) {
    constexpr Codec kPairs[][2] = {{Codec::fp32, Codec::fp32}, {Codec::bf16, Codec::bf16},
                                   {Codec::fp16, Codec::fp16}, {Codec::int8, Codec::int8},
                                   {Codec::int4, Codec::int4}, {Codec::int8, Codec::int4},
                                   {Codec::fp16, Codec::int4}, {Codec::int4, Codec::bf16}};
    Random random(5);
    for (const Case& c : kCases)
        for (const auto& [key, value] : kPairs) hold(c, key, value, kernels, portable, random);
}

}  // namespace kept
