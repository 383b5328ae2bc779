// Keys and values on their way into a cache: per-head norms, turns by position, codecs.
#include "held.h"

namespace kept {
namespace {

constexpr Codec kCodecs[] = {Codec::fp32, Codec::bf16, Codec::fp16, Codec::int8, Codec::int4};

struct Heads {
    std::vector<std::byte> codes;
    std::vector<std::uint16_t> scales;

    Heads(Codec codec, std::int64_t count, std::int64_t dim)
        : codes(zeros<std::byte>(count * code_bytes(codec, dim))),
          scales(zeros<std::uint16_t>(count * num_scales(codec, dim))) {}
};

void hold_encoding(const Kernels& kernels, const Kernels& portable, Random& random) {
    for (const Codec codec : kCodecs)
        for (const std::int64_t dim : {1, 24, 33, 128})
            for (const bool turns : {false, true}) {
                const auto x = random.normals(9 * dim);
                const auto of = [&](const Kernels& set) {
                    Heads found(codec, 9, dim);
                    set.encode_heads(
                        {{codec, found.codes.data(), found.scales.data()}, turns, x.data(), dim}, 0,
                        9);
                    return found;
                };
                const Heads found = of(kernels), expected = of(portable);
                require(same_bits(found.codes, expected.codes) &&
                            same_bits(found.scales, expected.scales),
                        std::string("encoding to ") + name_of(codec) + (turns ? ", turned" : ""));
            }
}

// A step of two sequences: queries, and keys and values as fp32, which show what norms and turns
// have come to.
void hold_placing(const Kernels& kernels, const Kernels& portable, Random& random) {
    const std::int64_t rows = 5, heads = 4, keys = 2, block = 64;
    const std::int64_t starts[] = {0, 2, 5}, lengths[] = {70, 3};
    const std::int32_t blocks[] = {3, 0, 1, 2}, row_sequence[] = {0, 0, 1, 1, 1};
    const std::vector<std::int64_t> rope_rows{0, 4, 1, 2, 3};
    for (const std::int64_t dim : {24, 40, 64})
        for (const int kind : {0, 1, 2}) {  // plain, normed, each head centred and normed alone
            Rows qkv(random, rows, (heads + 2 * keys) * dim, false);
            const auto q_norm = random.normals(heads * dim), k_norm = random.normals(keys * dim);
            const auto cos = random.normals(5 * dim / 2), sin = random.normals(5 * dim / 2);
            const std::int64_t padded = round_up(dim, 32);
            const auto of = [&](const Kernels& set) {
                Rows queries(rows, heads * padded, false);
                Heads k(Codec::fp32, 4 * keys * block, dim), v(Codec::fp32, 4 * keys * block, dim);
                PlaceArgs args{};
                args.qkv = qkv.floats.data(), args.qkv_stride = qkv.stride;
                args.shape = {heads, keys, dim, 1, true, -1, 0, 0, dim};
                if (kind > 0) args.q_norm = q_norm.data(), args.k_norm = k_norm.data();
                if (kind == 2) args.norm_stride = dim, args.centred = args.neighbours = true;
                args.eps = 1e-6f, args.cos = cos.data(), args.sin = sin.data();
                args.rope_rows = rope_rows.data(), args.rope_dim = dim;
                args.rope_stride = dim / 2, args.queries = queries.from();
                args.keys = {Codec::fp32, k.codes.data(), nullptr};
                args.values = {Codec::fp32, v.codes.data(), nullptr};
                args.layout = {block, 0, -1};
                args.sequences = {2, starts, {blocks, 2}, lengths, row_sequence};
                const std::int64_t units = rows * (heads + 2 * keys);
                set.place(args, 0, units / 3);
                set.place(args, units / 3, units);
                std::vector<float> found = queries.floats;
                for (const Heads* side : {&k, &v}) {
                    const auto* first = reinterpret_cast<const float*>(side->codes.data());
                    found.insert(found.end(), first, first + 4 * keys * block * dim);
                }
                return found;
            };
            const auto found = of(kernels), expected = of(portable);
            for (std::size_t i = 0; i < found.size(); ++i)
                require_near(found[i], expected[i], 64 * kEps * (8 + std::fabs(expected[i])),
                             "placing");
        }
}

}  // namespace

void hold_stored(const Kernels& kernels, const Kernels& portable) {
    Random random(4);
    hold_encoding(kernels, portable, random);
    hold_placing(kernels, portable, random);
}

}  // namespace kept
