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

#include "code_words.h"
#include "fused.h"
#include "prefetch.h"
#include "quads.h"
#include "tile.h"

namespace kept::KEPT_NS {

// How a step of weights is read: Quads of W columns, kUnits of them, kStep bytes for kWide vectors
// side by side. kShared: by several tiles, one after the other.
struct ReadInt8Quads {
    using Codes = Int8Quads;
    static constexpr int kUnits = 1, kStep = kStepBytes, kWide = NV;
    static constexpr bool kShared = false, kKeeps = false;
};

template <class Levels>
struct ReadLevelQuads {
    using Codes = Levels;
    static constexpr int kUnits = 2, kStep = kStepBytes, kWide = NV;
    static constexpr bool kShared = false, kKeeps = false;
};

// The same in one of the tiles that read it, each a strip of the panel.
template <class Read>
struct ShareQuads : Read {
    static constexpr bool kShared = true;
};

// The same, which also keeps the Quads for more rows.
template <class Read>
struct KeepQuads : Read {
    static constexpr bool kShared = true, kKeeps = true;
};

// Quads that were kept.
template <int kVectors>
struct ReadQuads {
    struct Codes {
        Quads x;
        explicit Codes(const std::byte* p) : x(load_quads(p)) {}
        Quads unit(int) const { return x; }
    };
    static constexpr int kUnits = 1, kStep = kVectors * kQuadBytes, kWide = kVectors;
    static constexpr bool kShared = true, kKeeps = false;
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
    static constexpr bool kShared = true, kKeeps = false;
};
#endif

constexpr std::int64_t kOuterAhead = 3072;  // bytes beyond what comes into the nearest cache
constexpr std::int64_t kScalesAhead = 8;    // groups

// Rows of a tile as wide as a panel.
#if defined(KEPT_BROADCASTS)
constexpr int kCodeRows = 8;
#else
constexpr int kCodeRows = W == 16 ? 7 : kMaxRows;
#endif

// A tile of many rows, in vectors and rows, and the most rows that tiles of the other kind take.
#if defined(KEPT_FLIPS)
constexpr int kCodeVectors = NV / 2, kCodeTurnRows = 5;  // 10 of 16 registers
// Rows, at most, whose signs cost less than flips that have to be made of all weights.
constexpr int kWideRows = 2 * kCodeRows;
#elif defined(KEPT_BROADCASTS)
// A sum takes an instruction more than six cycles after the one before, and two start in each: with
// fewer than 13 sums under way they wait.
constexpr int kCodeVectors = 1, kCodeTurnRows = 16, kWideRows = kCodeRows;
#else
constexpr int kCodeVectors = NV, kCodeTurnRows = kCodeRows, kWideRows = kCodeRows;
#endif
constexpr int kCodeStrips = NV / kCodeVectors;

// Of a tile's rows, those whose floats have registers beside whole numbers. The sums of the others
// lie in the nearest cache.
constexpr int held_rows(int rows, int vectors) {
    if (W != 16) return rows * vectors <= kMaxRows / 2 * NV ? rows : 0;
    const int left = 28 / vectors - rows;
    return left >= rows ? rows : left - (vectors > 1);
}

// A stretch of a panel's inputs: whole groups of activations.
struct CodeTileArgs {
    const std::byte* b;
    const std::byte* a;  // words of the rows, from the stretch's first group on (code_words.h)
    std::int64_t num_inputs;
    float* c;     // (rows, 32) sums
    bool resume;  // go on from what c holds
    const std::byte* ahead;
    std::int64_t ahead_stride;    // bytes a step
    const std::uint16_t* scales;  // of the first group, 32 a group, where there are any
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
    if constexpr (Read::kShared) {
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

// One row's products of four inputs. An activation that is read with each of its products takes no
// instruction of its own; one that several products share takes fewer reads.
template <int kVectors, class Of>
KEPT_INLINE void add_row(const Of* w, const std::int8_t* a, vi* sums) {
    if constexpr (kVectors == 1 && requires { dot_of(sums[0], w[0], a); }) {
        sums[0] = dot_of(sums[0], w[0], a);
    } else {
        const Fours x(a);
        for_each_of<kVectors>(
            [&](auto v) __attribute__((always_inline)) { sums[v] = dot(sums[v], w[v], x); });
    }
}

// One step's products. a: the first row's codes.
template <class Read, int kRows, int kVectors>
KEPT_INLINE void add_step(const std::byte* b, const std::int8_t* a, std::byte* kept,
                          vi sums[kRows][kVectors]) {
    [&]<std::size_t... v>(std::index_sequence<v...>) __attribute__((always_inline)) {
        const typename Read::Codes codes[kVectors] = {typename Read::Codes(
            b + static_cast<std::int64_t>(v) * (Read::kStep / Read::kWide))...};
        for_each_of<Read::kUnits>([&](auto u) __attribute__((always_inline)) {
            const decltype(codes[0].unit(0)) w[kVectors] = {codes[v].unit(u)...};
            if constexpr (Read::kKeeps)
                (store_quads(kept + (u * kVectors + v) * kQuadBytes, w[v]), ...);
            for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
                add_row<kVectors>(w, a + r * kCodeGroup + 4 * u, sums[r]);
            });
        });
    }(std::make_index_sequence<static_cast<std::size_t>(kVectors)>());
}

template <class Read, GroupScales kScales, int kRows, int kVectors>
void code_tile(const CodeTileArgs& t) {
    constexpr bool kScaled = kScales != GroupScales::none;
    constexpr int kHeld = held_rows(kRows, kVectors);
    constexpr int kInputs = 4 * Read::kUnits, kSteps = kCodeGroup / kInputs;
    const std::byte* b = t.b;
    const std::byte* ahead = t.ahead;
    std::byte* kept = t.kept;
    const std::int64_t ahead_stride = t.ahead_stride;
    const std::byte* a = t.a;
    const std::byte* const end = a + t.num_inputs / kCodeGroup * (kRows * kRowGroupBytes);
    const std::uint16_t* own_scales = t.scales;
    vf held[kHeld > 0 ? kHeld : 1][kVectors];
    for_each_of<kRows * kVectors>([&](auto i) __attribute__((always_inline)) {
        constexpr int r = i / kVectors, v = i % kVectors;
        float* c = t.c + r * kPanel + v * W;
        if constexpr (r < kHeld)
            held[r][v] = t.resume ? load(c) : zero();
        else if (!t.resume)
            store(c, zero());
    });
    for (; a != end; a += kRows * kRowGroupBytes) {
        const auto* codes = reinterpret_cast<const std::int8_t*>(a);
        const auto* scales = reinterpret_cast<const float*>(a + kRows * kCodeGroup);
        const auto* starts = reinterpret_cast<const std::int32_t*>(scales + kRows);
        if constexpr (kScaled) prefetch_near(own_scales + kScalesAhead * kPanel);
        vi sums[kRows][kVectors];
        for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
            if constexpr (requires { Read::kStarts; }) {
                for_each_of<kVectors>([&](auto v) __attribute__((always_inline)) {
                    sums[r][v] = read_quads(b + v * kQuadBytes);
                });
            } else {
                const vi begin = start(starts + r);
                for_each_of<kVectors>([&](auto v)
                                          __attribute__((always_inline)) { sums[r][v] = begin; });
            }
        });
        if constexpr (requires { Read::kStarts; }) b += Read::kStarts;
        const auto step = [&](int i) __attribute__((always_inline)) {
            prefetch_codes<Read>(ahead);
            add_step<Read, kRows, kVectors>(b, codes + i * kInputs, kept, sums);
            b += Read::kStep, ahead += ahead_stride;
            if constexpr (Read::kKeeps) kept += Read::kUnits * kVectors * kQuadBytes;
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
                const vf scale = set1(scales[r]);
                float* c = t.c + r * kPanel + v * W;
                if constexpr (r < kHeld)
                    held[r][v] = fused(x, scale, held[r][v]);
                else
                    store(c, fused(x, scale, load(c)));
            });
        });
        if constexpr (kScaled) own_scales += kPanel;
    }
    if constexpr (kHeld > 0)
        for_each_of<kHeld * kVectors>([&](auto i) __attribute__((always_inline)) {
            constexpr int r = i / kVectors, v = i % kVectors;
            store(t.c + r * kPanel + v * W, held[r][v]);
        });
}

}  // namespace kept::KEPT_NS
