// The micro-kernel for activations of int8: a few rows of codes times one panel of weights.
//
// Products are summed in int32 over a span of inputs, exactly and so in any order. What follows is
// one chain in fp32 for each output, of products and sums that are each rounded by themselves:
//
//   sum = 0;  for each span in ascending order:  sum = sum + float(span's sum) * scale
//
// scale: of the activations' group; of int4 weights times the weights' own before that.
#pragma once

#include "code_rows.h"
#include "quads.h"
#include "tile.h"

namespace kept::KEPT_NS {

// How a step of weights is read: Quads of W columns, kUnits of them, kStep bytes a panel's step.
struct ReadInt8Quads {
    using Codes = Int8Quads;
    static constexpr int kUnits = 1, kStep = kStepBytes;
};

struct ReadInt4Quads {
    using Codes = Int4Quads;
    static constexpr int kUnits = 2, kStep = kStepBytes;
};

// Made beforehand for many rows.
struct ReadQuads {
    struct Codes {
        Quads x;
        explicit Codes(const std::byte* p) : x(load_quads(p)) {}
        Quads unit(int) const { return x; }
    };
    static constexpr int kUnits = 1, kStep = NV * kQuadBytes;
};

// A stretch of a panel's inputs, whole groups of activations unless it is the last.
struct CodeTileArgs {
    const std::byte* b;
    CodeRows a;
    std::int64_t first_row, first_input, num_inputs;
    float* c;     // (rows, 32) sums
    bool resume;  // go on from what c holds
    const std::byte* ahead;
    std::int64_t ahead_stride;    // bytes a step
    const std::uint16_t* scales;  // int4: of the panel's first group, 32 a group
};

// Calls f(0), f(1), ... with constants. A loop that the compiler unrolls too late would leave sums
// in memory.
template <int kCount, class F>
KEPT_INLINE void for_each_of(const F& f) {
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (f(std::integral_constant<int, i>{}), ...);
    }(std::make_integer_sequence<int, kCount>{});
}

// One span's sums. a: the first row's codes.
template <class Read, int kRows>
KEPT_INLINE void add_span(const std::byte* b, const std::int8_t* a, std::int64_t a_stride,
                          std::int64_t num_inputs, const std::byte* ahead,
                          std::int64_t ahead_stride, vi sums[kRows][NV]) {
    constexpr std::int64_t kInputs = 4 * Read::kUnits;
    const std::int8_t* const end = a + num_inputs;
    for (; a != end; a += kInputs, b += Read::kStep, ahead += ahead_stride) {
        prefetch_near(ahead);
        prefetch_near(ahead + 64);
        [&]<std::size_t... v>(std::index_sequence<v...>) __attribute__((always_inline)) {
            const typename Read::Codes codes[NV] = {
                typename Read::Codes(b + static_cast<std::int64_t>(v) * (Read::kStep / NV))...};
            for_each_of<Read::kUnits>([&](auto u) __attribute__((always_inline)) {
                const Quads w[NV] = {codes[v].unit(u)...};
                for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
                    const Fours x(a + r * a_stride + 4 * u);
                    ((sums[r][v] = dot(sums[r][v], w[v], x)), ...);
                });
            });
        }(std::make_index_sequence<static_cast<std::size_t>(NV)>());
    }
}

template <class Read, bool kScaled, int kRows>
void code_tile(const CodeTileArgs& t) {
    constexpr std::int64_t kSpan = kScaled ? kGroup : kCodeGroup;
    // With few rows the sums stay in registers; with more they lie in the nearest cache.
    constexpr bool kHeld = 2 * kRows <= kMaxRows;
    const std::byte* b = t.b;
    const std::byte* ahead = t.ahead;
    const std::int64_t stride = t.a.stride();
    const std::int8_t* const codes = t.a.codes(t.first_row);
    const float* const scales = t.a.scales(t.first_row);
    const std::int32_t* const starts = t.a.starts(t.first_row);
    const std::int64_t last = t.first_input + t.num_inputs;
    vf held[kHeld ? kRows : 1][NV];
    for_each_of<kRows * NV>([&](auto i) __attribute__((always_inline)) {
        constexpr int r = i / NV, v = i % NV;
        float* c = t.c + r * kPanel + v * W;
        if constexpr (kHeld)
            held[r][v] = t.resume ? load(c) : zero();
        else if (!t.resume)
            store(c, zero());
    });
    for (std::int64_t input = t.first_input; input < last; input += kSpan) {
        const std::int64_t count = last - input < kSpan ? last - input : kSpan;
        vi sums[kRows][NV];
        for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
            const vi begin = start(starts + r * (stride / 4) + input / kSpan);
            for_each_of<NV>([&](auto v) __attribute__((always_inline)) { sums[r][v] = begin; });
        });
        add_span<Read, kRows>(b, codes + input, stride, count, ahead, t.ahead_stride, sums);
        const std::int64_t num_steps = count / (4 * Read::kUnits);
        b += num_steps * Read::kStep;
        ahead += num_steps * t.ahead_stride;
        for_each_of<NV>([&](auto v) __attribute__((always_inline)) {
            const vf own = kScaled ? load_bf16(t.scales + input / kGroup * kPanel + v * W) : zero();
            for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
                vf x = to_float(sums[r][v]);
                if constexpr (kScaled) x = mul(x, own);
                x = mul(x, set1(scales[r * (stride / 4) + input / kCodeGroup]));
                float* c = t.c + r * kPanel + v * W;
                if constexpr (kHeld)
                    held[r][v] = add(held[r][v], x);
                else
                    store(c, add(load(c), x));
            });
        });
    }
    if constexpr (kHeld)
        for_each_of<kRows * NV>([&](auto i) __attribute__((always_inline)) {
            constexpr int r = i / NV, v = i % NV;
            store(t.c + r * kPanel + v * W, held[r][v]);
        });
}

}  // namespace kept::KEPT_NS
