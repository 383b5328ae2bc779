// The micro-kernel: a few rows of activations times one panel of weights.
//
// Every output element is one chain of dp() over its inputs in ascending order, whatever the number
// of rows, so rows can be grouped in any way without changing a bit. An int4 panel has a chain for
// each group of 32 inputs, scaled and added in ascending order.
#pragma once

#include <utility>

#include "layout.h"
#include "simd.h"

namespace kept::KEPT_NS {

constexpr int NV = kPanel / W;  // vectors across a panel

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

template <class Read, int kRows>
KEPT_INLINE void steps(const TileArgs<typename Read::Act>& t, std::int64_t first_input,
                       std::int64_t last_input, vf acc[kRows][NV]) {
    constexpr int kInputs = Read::kUnits * Read::kUnitInputs;
    const std::byte* b = t.b + first_input / kInputs * kStepBytes;
    const std::byte* ahead = t.ahead + first_input / kInputs * t.ahead_stride;
    const typename Read::Act* a = t.a + first_input;
    const typename Read::Act* const end = t.a + last_input;
    for (; a != end; a += kInputs, b += kStepBytes, ahead += t.ahead_stride) {
        prefetch_near(ahead);
        prefetch_near(ahead + 64);
        [&]<std::size_t... v>(std::index_sequence<v...>) __attribute__((always_inline)) {
            const typename Read::Codes codes[NV] = {
                typename Read::Codes(b + static_cast<std::int64_t>(v) * W * 4)...};
            KEPT_UNROLL_ALL
            for (int u = 0; u < Read::kUnits; ++u) {
                const typename Read::Operand w[NV] = {codes[v].unit(u)...};
                KEPT_UNROLL_ALL
                for (int r = 0; r < kRows; ++r) {
                    const auto x = Read::broadcast(a + r * t.a_stride + u * Read::kUnitInputs);
                    KEPT_UNROLL_ALL
                    for (int i = 0; i < NV; ++i) acc[r][i] = Read::mac(acc[r][i], x, w[i]);
                }
            }
        }(std::make_index_sequence<static_cast<std::size_t>(NV)>());
    }
}

template <class Read, int kRows>
void tile(const TileArgs<typename Read::Act>& t) {
    vf acc[kRows][NV];
    KEPT_UNROLL_ALL
    for (int r = 0; r < kRows; ++r) {
        KEPT_UNROLL_ALL
        for (int v = 0; v < NV; ++v) acc[r][v] = t.resume ? load(t.c + r * kPanel + v * W) : zero();
    }
    steps<Read, kRows>(t, 0, t.num_inputs, acc);
    KEPT_UNROLL_ALL
    for (int r = 0; r < kRows; ++r) {
        KEPT_UNROLL_ALL
        for (int v = 0; v < NV; ++v) store(t.c + r * kPanel + v * W, acc[r][v]);
    }
}

// Scales each group of 32 inputs. num_inputs is a multiple of 32. The sums of groups stay in
// memory, in the nearest cache: registers are for the sums within one.
template <class Read, int kRows>
void grouped_tile(const TileArgs<typename Read::Act>& t) {
    const std::uint16_t* scales = t.scales;
    for (std::int64_t k = 0; k < t.num_inputs; k += kGroup, scales += kPanel) {
        vf acc[kRows][NV];
        KEPT_UNROLL_ALL
        for (int r = 0; r < kRows; ++r) {
            KEPT_UNROLL_ALL
            for (int v = 0; v < NV; ++v) acc[r][v] = zero();
        }
        steps<Read, kRows>(t, k, k + kGroup, acc);
        const bool resume = t.resume || k > 0;
        KEPT_UNROLL_ALL
        for (int v = 0; v < NV; ++v) {
            const vf scale = load_bf16(scales + v * W);
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                float* c = t.c + r * kPanel + v * W;
                store(c, fma(acc[r][v], scale, resume ? load(c) : zero()));
            }
        }
    }
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
