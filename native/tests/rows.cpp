// Kernels over single rows: norms, embeddings, quantizing, and the weights of tokens.
#include "../stream_args.h"
#include "held.h"

namespace kept {
namespace {

void hold_norms(const Kernels& kernels, const Kernels& portable, Random& random) {
    for (const std::int64_t width : {1, 7, 64, 333})
        for (const bool biased : {false, true})
            for (const bool bf16 : {false, true}) {
                Rows x(random, 3, width, false);
                const auto weight = random.normals(width), bias = random.normals(width);
                const auto of = [&](const Kernels& set) {
                    Rows out(3, width, bf16);
                    set.norm({x.floats.data(), x.stride, width, out.stride, nullptr, weight.data(),
                              biased ? bias.data() : nullptr, 1e-5f, out.from()},
                             0, 3);
                    return out;
                };
                const Rows found = of(kernels), expected = of(portable);
                for (std::int64_t row = 0; row < 3; ++row)
                    for (std::int64_t i = 0; i < width; ++i) {
                        const double y = expected.get(row, i), size = std::fabs(y) + 8;
                        require_near(found.get(row, i), y, size * (bf16 ? 0x1p-7 : 64 * kEps),
                                     "norm");
                    }
            }
}

void hold_rounding(const Kernels& kernels, const Kernels& portable, Random& random) {
    for (const std::int64_t width : {1, 64, 333}) {
        Rows x(random, 3, width, false), by(random, 3, width, false);
        const auto of = [&](const Kernels& set) {
            Rows out(3, width, true);
            set.round(
                {x.floats.data(), x.stride, width, out.from(), 0.3f, by.floats.data(), by.stride},
                0, 3);
            return out;
        };
        require(same_bits(of(kernels), of(portable)), "rounding, bit for bit");
    }
}

void hold_embeddings(const Kernels& kernels, const Kernels& portable, Random& random) {
    for (const Format format : {Format::fp32, Format::bf16, Format::int8, Format::int4,
                                Format::mxfp4, Format::q8_0, Format::q4_0}) {
        const std::int64_t width = 70;
        const Matrix table(random, format, 40, width, false);
        const std::vector<std::int64_t> tokens{3, 39, 0}, positions{2, 0, 1};
        const auto places = random.normals(3 * width);
        const auto of = [&](const Kernels& set) {
            Rows out(3, width, false);
            set.embed({&table.weights, places.data(), tokens.data(), positions.data(),
                       out.floats.data(), out.stride, 1.5f},
                      0, 3);
            return out;
        };
        require(same_bits(of(kernels), of(portable)), "embedding");
    }
}

void hold_quantizing(const Kernels& kernels, const Kernels& portable, Random& random) {
    const std::int64_t rows = 5, inputs = 333, groups = round_up(inputs, kGroup) / kGroup;
    const auto floats = random.normals(rows * inputs);
    std::vector<std::uint16_t> halves;
    for (const float x : floats) halves.push_back(rounded(x));
    for (const Format format : {Format::int8, Format::int4})
        for (const bool bf16 : {false, true}) {
            const auto of = [&](const Kernels& set) {
                std::vector<std::int8_t> codes = zeros<std::int8_t>(rows * inputs);
                std::vector<float> scales = zeros<float>(rows * groups);
                std::vector<float> scratch = zeros<float>(round_up(inputs, kGroup));
                const void* source = bf16 ? static_cast<const void*>(halves.data())
                                          : static_cast<const void*>(floats.data());
                const std::int64_t wrong = set.quantize_rows(
                    {format, source, bf16, rows, inputs, codes.data(), scales.data()}, 0, rows,
                    scratch.data());
                require(wrong == -1, "quantizing finite numbers");
                return std::pair(codes, scales);
            };
            const auto found = of(kernels), expected = of(portable);
            require(
                same_bits(found.first, expected.first) && same_bits(found.second, expected.second),
                std::string("quantizing to ") + name_of(format));
        }
}

void hold_weights(const Kernels& kernels, const Kernels& portable, Random& random) {
    const auto scores = random.normals(1000, 6);
    for (const float temperature : {1.0f, 0.7f}) {
        const float peak = *std::max_element(scores.begin(), scores.end()) / temperature;
        const auto of = [&](const Kernels& set) {
            std::vector<std::int64_t> sums = zeros<std::int64_t>(4);
            set.weigh({scores.data(), 1000, peak, temperature, sums.data()}, 0, 4);
            return sums;
        };
        require(same_bits(of(kernels), of(portable)), "the weights of tokens");
    }
}

// Rows that chose two of three experts, and a shared one.
void hold_sums(const Kernels& kernels, const Kernels& portable, Random& random) {
    Routing routing{};
    routing.num_experts = 3, routing.top_k = 2, routing.normalised = routing.is_shared = true;
    const std::int64_t rows = 9, width = 700;
    Rows scores(random, rows, 4, false), made(random, 2 * rows, width, false);
    Rows shared(random, rows, width, false);
    Routes routes;
    routes.reserve(routing, rows);
    auto scratch = zeros<float>(Routes::choice_scratch(routing));
    routes.choose(routing, scores.floats.data(), scores.stride, 0, rows, scratch.data());
    routes.group(routing, rows);
    for (const bool add : {false, true}) {
        const Rows before(random, rows, width, false);
        const auto of = [&](const Kernels& set) {
            Rows out = before;
            const CombineArgs args{&routes,       routing.top_k,
                                   width,         made.floats.data(),
                                   made.stride,   shared.floats.data(),
                                   shared.stride, out.floats.data(),
                                   out.stride,    add};
            set.combine(args, 0, rows * args.num_parts());
            return out;
        };
        const Rows found = of(kernels), expected = of(portable);
        for (std::int64_t row = 0; row < rows; ++row)
            for (std::int64_t i = 0; i < width; ++i)
                require_near(found.get(row, i), expected.get(row, i), 64 * kEps, "sum of experts");
    }
}

void require_alike(const Rows& found, const Rows& expected, std::int64_t rows, std::int64_t width,
                   const char* what) {
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t i = 0; i < width; ++i) {
            const double y = expected.get(row, i);
            require_near(found.get(row, i), y, (std::fabs(y) + 8) * 256 * kEps, what);
        }
}

// Three streams side by side, and columns of them.
void hold_streams(const Kernels& kernels, const Kernels& portable, Random& random) {
    const std::int64_t rows = 4, count = 3;
    for (const std::int64_t width : {1, 21, 64}) {
        Rows routes(random, rows, count, false), active(random, rows, width, false);
        const Rows before(random, rows, count * width, false);
        const auto weight = random.normals(count * count * count), by = random.normals(width);
        const auto predicted = [&](const Kernels& set) {
            Rows x = before;
            set.predict_streams({x.floats.data(), x.stride, width, count, routes.floats.data(),
                                 routes.stride, weight.data(), nullptr, 0, 0},
                                0, rows);
            return x;
        };
        const auto corrected = [&](const Kernels& set) {
            Rows x = before;
            set.correct_streams(
                {x.floats.data(), x.stride, width, count, routes.floats.data(), routes.stride,
                 weight.data(), active.floats.data(), active.stride, 1},
                0, rows);
            return x;
        };
        const auto matched = [&](const Kernels& set) {
            Rows x = before;
            set.match({active.floats.data(), active.stride, width, x.floats.data(), x.stride, 1e-5f,
                       x.floats.data() + width, x.stride, true},
                      0, rows);
            return x;
        };
        const auto put = [&](const Kernels& set) {
            Rows x = before;
            set.put_columns(
                {active.floats.data(), active.stride, width, width, by.data(), x.from(), true}, 0,
                rows);
            return x;
        };
        require_alike(predicted(kernels), predicted(portable), rows, count * width, "predicting");
        require_alike(corrected(kernels), corrected(portable), rows, count * width, "correcting");
        require_alike(matched(kernels), matched(portable), rows, count * width, "matching");
        require_alike(put(kernels), put(portable), rows, count * width, "columns");
    }
}

void hold_sparse_gates(const Kernels& kernels, const Kernels& portable, Random& random) {
    for (const std::int64_t width : {3, 70}) {
        Rows gates(random, 4, width, false), ups(random, 4, width, false);
        const auto of = [&](const Kernels& set) {
            Rows out(4, width, false);
            set.gate_sparsely({gates.floats.data(), ups.floats.data(), gates.stride, ups.stride,
                               width, 0.4f, Activation::gelu_tanh, out.from()},
                              0, 4);
            return out;
        };
        require_alike(of(kernels), of(portable), 4, width, "sparse gates");
    }
}

}  // namespace

void hold_rows(const Kernels& kernels, const Kernels& portable) {
    Random random(3);
    hold_norms(kernels, portable, random);
    hold_rounding(kernels, portable, random);
    hold_embeddings(kernels, portable, random);
    hold_quantizing(kernels, portable, random);
    hold_weights(kernels, portable, random);
    hold_sums(kernels, portable, random);
    hold_streams(kernels, portable, random);
    hold_sparse_gates(kernels, portable, random);
}

}  // namespace kept
