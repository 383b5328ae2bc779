// The micro-kernel for activations of int8: a few rows of codes times one panel of weights.
//
// Products are summed in int32 over a group of 32 inputs, exactly and so in any order. What follows
// is one chain of fused multiply-adds in fp32 for each output:
//
//   sum = 0;  for each group in ascending order:  sum = fused(float(group's sum), scale, sum)
//
// scale: of the activations' group. The group's sum is times the weights' scale of the group before
// that, where there is one.
#pragma once

#include "code_rows.h"
#include "fused.h"
#include "prefetch.h"
#include "quads.h"
#include "tile.h"

namespace kept::KEPT_NS {

// How a step of weights is read: Quads of W columns, kUnits of them, kStep bytes for kWide vectors
// side by side.
struct ReadInt8Quads {
    using Codes = Int8Quads;
    static constexpr int kUnits = 1, kStep = kStepBytes, kWide = NV;
    static constexpr bool kMade = false, kKeeps = false;
};

template <class Levels>
struct ReadLevelQuads {
    using Codes = Levels;
    static constexpr int kUnits = 2, kStep = kStepBytes, kWide = NV;
    static constexpr bool kMade = false, kKeeps = false;
};

// The same, which also keeps the Quads for more rows.
template <class Read>
struct KeepQuads : Read {
    static constexpr bool kKeeps = true;
};

// Quads that were kept.
struct ReadQuads {
    struct Codes {
        Quads x;
        explicit Codes(const std::byte* p) : x(load_quads(p)) {}
        Quads unit(int) const { return x; }
    };
    static constexpr int kUnits = 1, kStep = NV * kQuadBytes, kWide = NV;
    static constexpr bool kMade = true, kKeeps = false;
};

#if defined(KEPT_FLIPS)
// The same for half a panel, with what a group's sums begin with in front of its steps.
struct ReadFlips {
    struct Codes {
        FlipQuads x;
        explicit Codes(const std::byte* p) : x(load_flips(p)) {}
        FlipQuads unit(int) const { return x; }
    };
    static constexpr int kUnits = 1, kStep = NV * kQuadBytes, kWide = NV / 2, kStarts = kStep / 2;
    static constexpr bool kMade = true, kKeeps = false;
};
#endif

constexpr std::int64_t kOuterAhead = 3072;  // bytes beyond what comes into the nearest cache
constexpr std::int64_t kScalesAhead = 8;    // groups

// Rows of a tile as wide as a panel, and how many of them have registers for their floats beside
// their whole numbers.
constexpr int kCodeRows = W == 16 ? 7 : kMaxRows;
constexpr int kHeldRows = W == 16 ? kCodeRows : kMaxRows / 2;

// A tile of many rows, in vectors and rows.
#if defined(KEPT_FLIPS)
constexpr int kCodeVectors = NV / 2, kCodeTurnRows = 5;  // 10 of 16 registers
// Rows, at most, whose signs cost less than flips that have to be made of all weights.
constexpr int kSignRows = 2 * kCodeRows;
#else
constexpr int kCodeVectors = NV, kCodeTurnRows = kCodeRows;
#endif
constexpr int kCodeStrips = NV / kCodeVectors;

// A stretch of a panel's inputs: whole groups of activations.
struct CodeTileArgs {
    const std::byte* b;
    CodeRows a;
    std::int64_t first_row, first_input, num_inputs;
    float* c;     // (rows, 32) sums
    bool resume;  // go on from what c holds
    const std::byte* ahead;
    std::int64_t ahead_stride;    // bytes a step
    const std::uint16_t* scales;  // of the panel's first group, 32 a group, where there are any
    std::byte* kept;              // where Quads are kept, if they are
};

// Calls f(0), f(1), ... with constants. A loop that the compiler unrolls too late would leave sums
// in memory.
template <int kCount, class F>
KEPT_INLINE void for_each_of(const F& f) {
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (f(std::integral_constant<int, i>{}), ...);
    }(std::make_integer_sequence<int, kCount>{});
}

// Of weights that one tile alone reads, what comes soon is fetched into the nearest cache, and what
// follows it into the second: the nearest has too few buffers for all that is on its way from
// memory. While several tiles read the same, the nearest is theirs, and each fetches its share of
// what comes next into the second.
template <class Read>
KEPT_INLINE void prefetch_codes(const std::byte* p) {
    if constexpr (Read::kMade || Read::kKeeps) {
        prefetch_outer(p);
    } else {
        prefetch_near(p);
        prefetch_near(p + 64);
        if (kPrefetchPastCaches) return;
        prefetch_outer(p + kOuterAhead);
        prefetch_outer(p + kOuterAhead + 64);
    }
}

template <GroupScales kScales>
KEPT_INLINE vf scales_or_zero(const std::uint16_t* p) {
    if constexpr (kScales == GroupScales::none)
        return zero();
    else
        return load_scales<kScales>(p);
}

// One step's products. a: the first row's codes.
template <class Read, int kRows, int kVectors>
KEPT_INLINE void add_step(const std::byte* b, const std::int8_t* a, std::int64_t a_stride,
                          std::byte* kept, vi sums[kRows][kVectors]) {
    [&]<std::size_t... v>(std::index_sequence<v...>) __attribute__((always_inline)) {
        const typename Read::Codes codes[kVectors] = {typename Read::Codes(
            b + static_cast<std::int64_t>(v) * (Read::kStep / Read::kWide))...};
        for_each_of<Read::kUnits>([&](auto u) __attribute__((always_inline)) {
            const decltype(codes[0].unit(0)) w[kVectors] = {codes[v].unit(u)...};
            if constexpr (Read::kKeeps) (store_quads(kept + (u * NV + v) * kQuadBytes, w[v]), ...);
            for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
                const Fours x(a + r * a_stride + 4 * u);
                ((sums[r][v] = dot(sums[r][v], w[v], x)), ...);
            });
        });
    }(std::make_index_sequence<static_cast<std::size_t>(kVectors)>());
}

template <class Read, GroupScales kScales, int kRows, int kVectors>
void code_tile(const CodeTileArgs& t) {
    constexpr bool kScaled = kScales != GroupScales::none;
    // With more rows the sums lie in the nearest cache.
    constexpr bool kHeld = kRows * kVectors <= kHeldRows * NV;
    constexpr int kInputs = 4 * Read::kUnits, kSteps = kCodeGroup / kInputs;
    const std::byte* b = t.b;
    const std::byte* ahead = t.ahead;
    std::byte* kept = t.kept;
    const std::int64_t stride = t.a.stride(), ahead_stride = t.ahead_stride;
    const std::int64_t first_group = t.first_input / kCodeGroup;
    const std::int8_t* codes = t.a.codes(t.first_row) + t.first_input;
    const std::int8_t* const end = codes + t.num_inputs;
    const float* scales = t.a.scales(t.first_row) + first_group;
    const std::int32_t* starts = t.a.starts(t.first_row) + first_group;
    const std::uint16_t* own_scales = kScaled ? t.scales + first_group * kPanel : nullptr;
    vf held[kHeld ? kRows : 1][kVectors];
    for_each_of<kRows * kVectors>([&](auto i) __attribute__((always_inline)) {
        constexpr int r = i / kVectors, v = i % kVectors;
        float* c = t.c + r * kPanel + v * W;
        if constexpr (kHeld)
            held[r][v] = t.resume ? load(c) : zero();
        else if (!t.resume)
            store(c, zero());
    });
    for (; codes != end; codes += kCodeGroup, ++scales, ++starts) {
        if constexpr (kScaled) prefetch_near(own_scales + kScalesAhead * kPanel);
        vi sums[kRows][kVectors];
        for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
            if constexpr (requires { Read::kStarts; }) {
                for_each_of<kVectors>([&](auto v) __attribute__((always_inline)) {
                    sums[r][v] = read_quads(b + v * kQuadBytes);
                });
            } else {
                const vi begin = start(starts + r * (stride / 4));
                for_each_of<kVectors>([&](auto v)
                                          __attribute__((always_inline)) { sums[r][v] = begin; });
            }
        });
        if constexpr (requires { Read::kStarts; }) b += Read::kStarts;
        const auto step = [&](int i) __attribute__((always_inline)) {
            prefetch_codes<Read>(ahead);
            add_step<Read, kRows, kVectors>(b, codes + i * kInputs, stride, kept, sums);
            b += Read::kStep, ahead += ahead_stride;
            if constexpr (Read::kKeeps) kept += Read::kUnits * NV * kQuadBytes;
        };
#if defined(KEPT_STEPS_IN_LOOP)
#pragma GCC unroll 1
        for (int i = 0; i < kSteps; ++i) step(i);
#else
        for_each_of<kSteps>(step);
#endif
        for_each_of<kVectors>([&](auto v) __attribute__((always_inline)) {
            const vf own = scales_or_zero<kScales>(own_scales + v * W);
            for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
                vf x = to_float(sums[r][v]);
                if constexpr (kScaled) x = mul(x, own);
                const vf scale = set1(scales[r * (stride / 4)]);
                float* c = t.c + r * kPanel + v * W;
                if constexpr (kHeld)
                    held[r][v] = fused(x, scale, held[r][v]);
                else
                    store(c, fused(x, scale, load(c)));
            });
        });
        if constexpr (kScaled) own_scales += kPanel;
    }
    if constexpr (kHeld)
        for_each_of<kRows * kVectors>([&](auto i) __attribute__((always_inline)) {
            constexpr int r = i / kVectors, v = i % kVectors;
            store(t.c + r * kPanel + v * W, held[r][v]);
        });
}

}  // namespace kept::KEPT_NS
