// The micro-kernel: a few rows of activations times one panel of weights.
//
// Every output element is one chain of dp() over its inputs in ascending order, whatever the number
// of rows, so rows can be grouped in any way without changing a bit. An int4 panel has a chain for
// each group of 32 inputs, scaled and added in ascending order.
#pragma once

#include <utility>

#include "finish.h"
#include "layout.h"
#include "simd.h"

namespace kept::KEPT_NS {

// How a step of a format is read: codes of W columns, and `kUnits` operands made of them. kFused:
// rows up to which that leaves registers for the sums; more rows read codes expanded beforehand.
struct ReadFp32 {
    using Act = float;
    using Operand = vf;
    struct Codes {
        vf x;
        explicit Codes(const std::byte* p) : x(load(reinterpret_cast<const float*>(p))) {}
        Operand unit(int) const { return x; }
    };
    static constexpr int kUnits = 1, kUnitInputs = 1, kFused = kMaxRows;
    static Operand broadcast(const Act* a) { return set1(*a); }
    static vf mac(vf acc, Operand a, Operand b) { return fma(a, b, acc); }
};

struct ReadBf16 {
    using Act = std::uint16_t;
    using Operand = vb;
    struct Codes {
        vb x;
        explicit Codes(const std::byte* p) : x(load_pairs(p)) {}
        Operand unit(int) const { return x; }
    };
    static constexpr int kUnits = 1, kUnitInputs = 2, kFused = kMaxRows;
    static Operand broadcast(const Act* a) { return set1_pair(a); }
    static vf mac(vf acc, Operand a, Operand b) { return dp(acc, a, b); }
};

struct ReadInt8 : ReadBf16 {
    struct Codes : Int8Codes {
        explicit Codes(const std::byte* p) : Int8Codes(p, kInt8Tables) {}
    };
    static constexpr int kUnits = 2, kFused = (2 * kMaxRows + 2) / 3;
};

struct ReadInt4 : ReadBf16 {
    struct Codes : Int4Codes {
        explicit Codes(const std::byte* p) : Int4Codes(p, kInt4Levels) {}
    };
    static constexpr int kUnits = 4, kFused = (5 * kMaxRows + 5) / 6;
};

// What a tile needs beside its weights. `ahead` is prefetched as the tile goes, `stride` bytes a
// step.
template <class Act>
struct TileArgs {
    const std::byte* b;
    const Act* a;
    std::int64_t a_stride;  // elements between rows
    std::int64_t num_inputs;
    float* c;     // (rows, 32) sums
    bool resume;  // go on from what c holds
    const std::byte* ahead;
    std::int64_t ahead_stride;
    const std::uint16_t* scales;  // int4: of the first group, 32 a group
};

// How far one stream of steps lies behind the other.
struct Between {
    std::int64_t b, a, ahead;  // bytes of b and of what is prefetched, elements of a
};

// Sums over `num_inputs` inputs from `first_input` on, of kStreams streams side by side: chains of
// their own keep the units busy where there are few rows.
template <class Read, int kRows, int kStreams>
KEPT_INLINE void steps(const TileArgs<typename Read::Act>& t, std::int64_t first_input,
                       std::int64_t num_inputs, Between between, vf acc[kStreams][kRows][NV]) {
    constexpr int kInputs = Read::kUnits * Read::kUnitInputs;
    const std::int64_t first_step = first_input / kInputs;
    const std::byte* b = t.b + first_step * kStepBytes;
    const std::byte* ahead = t.ahead + first_step * t.ahead_stride;
    const typename Read::Act* a = t.a + first_input;
    const typename Read::Act* const end = a + num_inputs;
    for (; a != end; a += kInputs, b += kStepBytes, ahead += t.ahead_stride) {
        KEPT_UNROLL_ALL
        for (int s = 0; s < kStreams; ++s) {
            prefetch_near(ahead + s * between.ahead);
            prefetch_near(ahead + s * between.ahead + 64);
            [&]<std::size_t... v>(std::index_sequence<v...>) __attribute__((always_inline)) {
                const typename Read::Codes codes[NV] = {typename Read::Codes(
                    b + s * between.b + static_cast<std::int64_t>(v) * W * 4)...};
                KEPT_UNROLL_ALL
                for (int u = 0; u < Read::kUnits; ++u) {
                    const typename Read::Operand w[NV] = {codes[v].unit(u)...};
                    KEPT_UNROLL_ALL
                    for (int r = 0; r < kRows; ++r) {
                        const auto x = Read::broadcast(a + s * between.a + r * t.a_stride +
                                                       u * Read::kUnitInputs);
                        KEPT_UNROLL_ALL
                        for (int i = 0; i < NV; ++i)
                            acc[s][r][i] = Read::mac(acc[s][r][i], x, w[i]);
                    }
                }
            }(std::make_index_sequence<static_cast<std::size_t>(NV)>());
        }
    }
}

// kStreams panels that lie `between` apart, their sums `c_between` floats apart.
template <class Read, int kRows, int kStreams = 1>
void tile(const TileArgs<typename Read::Act>& t, Between between = {}, std::int64_t c_between = 0) {
    vf acc[kStreams][kRows][NV];
    KEPT_UNROLL_ALL
    for (int s = 0; s < kStreams; ++s) {
        KEPT_UNROLL_ALL
        for (int r = 0; r < kRows; ++r) {
            KEPT_UNROLL_ALL
            for (int v = 0; v < NV; ++v)
                acc[s][r][v] = t.resume ? load(t.c + s * c_between + r * kPanel + v * W) : zero();
        }
    }
    steps<Read, kRows, kStreams>(t, 0, t.num_inputs, between, acc);
    KEPT_UNROLL_ALL
    for (int s = 0; s < kStreams; ++s) {
        KEPT_UNROLL_ALL
        for (int r = 0; r < kRows; ++r) {
            KEPT_UNROLL_ALL
            for (int v = 0; v < NV; ++v)
                store(t.c + s * c_between + r * kPanel + v * W, acc[s][r][v]);
        }
    }
}

// Groups [group, group + kTogether), scaled and added in this order to the sums in memory, in the
// nearest cache: registers are for the sums within a group.
template <class Read, int kRows, int kTogether>
KEPT_INLINE void add_groups(const TileArgs<typename Read::Act>& t, std::int64_t group,
                            bool resume) {
    vf acc[kTogether][kRows][NV];
    KEPT_UNROLL_ALL
    for (int g = 0; g < kTogether; ++g) {
        KEPT_UNROLL_ALL
        for (int r = 0; r < kRows; ++r) {
            KEPT_UNROLL_ALL
            for (int v = 0; v < NV; ++v) acc[g][r][v] = zero();
        }
    }
    constexpr std::int64_t kSteps = kGroup / (Read::kUnits * Read::kUnitInputs);
    steps<Read, kRows, kTogether>(t, group * kGroup, kGroup,
                                  {kSteps * kStepBytes, kGroup, kSteps * t.ahead_stride}, acc);
    KEPT_UNROLL_ALL
    for (int v = 0; v < NV; ++v) {
        vf scales[kTogether];
        KEPT_UNROLL_ALL
        for (int g = 0; g < kTogether; ++g)
            scales[g] = load_bf16(t.scales + (group + g) * kPanel + v * W);
        KEPT_UNROLL_ALL
        for (int r = 0; r < kRows; ++r) {
            float* c = t.c + r * kPanel + v * W;
            vf sum = resume ? load(c) : zero();
            KEPT_UNROLL_ALL
            for (int g = 0; g < kTogether; ++g) sum = fma(acc[g][r][v], scales[g], sum);
            store(c, sum);
        }
    }
}

// Scales each group of 32 inputs. num_inputs is a multiple of 32.
template <class Read, int kRows>
void grouped_tile(const TileArgs<typename Read::Act>& t) {
    constexpr int kTogether = 4 * kRows <= kMaxRows ? 4 : 2 * kRows <= kMaxRows ? 2 : 1;
    const std::int64_t num_groups = t.num_inputs / kGroup;
    std::int64_t group = 0;
    for (; group + kTogether <= num_groups; group += kTogether)
        add_groups<Read, kRows, kTogether>(t, group, t.resume || group > 0);
    for (; group < num_groups; ++group) add_groups<Read, kRows, 1>(t, group, t.resume || group > 0);
}

// Calls f.run<n>() for the n in 1..kMax that equals `rows`.
template <int kMax, class F>
inline void with_rows(int rows, const F& f) {
    if constexpr (kMax == 1) {
        f.template run<1>();
    } else {
        if (rows == kMax)
            f.template run<kMax>();
        else
            with_rows<kMax - 1>(rows, f);
    }
}

}  // namespace kept::KEPT_NS
