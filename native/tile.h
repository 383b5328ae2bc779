// The micro-kernel: a few rows of activations times vectors of one panel of weights.
//
// Every output element is one chain of multiply-adds over its inputs in ascending order, whatever
// the number of rows, so rows can be grouped in any way without changing a bit. A panel with
// scales of groups has a chain for each 32 inputs, scaled and added in ascending order.
#pragma once

#include <type_traits>
#include <utility>

#include "codes.h"
#include "finish.h"
#include "layout.h"
#include "prefetch.h"
#include "simd.h"

namespace kept::KEPT_NS {

// What goes into a product: words of 32 bits, each an input as a float or a pair of inputs as bf16.
struct FloatWords {
    using Vector = vf;
    static constexpr int kInputs = 1;  // of a word
    static vf read(const std::byte* p) { return load(reinterpret_cast<const float*>(p)); }
    static void write(std::byte* p, vf x) { store(reinterpret_cast<float*>(p), x); }
    static vf broadcast(const std::byte* p) { return set1(*reinterpret_cast<const float*>(p)); }
    static vf mac(vf acc, vf a, vf b) { return add_product(acc, a, b); }
};

struct PairWords {
    using Vector = vb;
    static constexpr int kInputs = 2;
    static vb read(const std::byte* p) { return load_pairs(p); }
    static void write(std::byte* p, vb x) { store_pairs(p, x); }
    static vb broadcast(const std::byte* p) {
        return set1_pair(reinterpret_cast<const std::uint16_t*>(p));
    }
    static vf mac(vf acc, vb a, vb b) { return dp(acc, a, b); }
};

// What bf16 activations are multiplied as. Without an instruction for pairs both operands become
// floats beforehand, activations once for all panels and weights once for many rows; a float at a
// time is the order in which dp() adds a pair's products there.
#if defined(__AVX512BF16__)
using Bf16Products = PairWords;
#else
using Bf16Products = FloatWords;
#endif

constexpr int kWordBytes = 4;

// The columns of a vector in one step of a format: kWords words each.
template <class Of>
struct ReadWords {
    static constexpr int kWords = 1, kInputs = Of::kInputs;
    typename Of::Vector x;
    explicit ReadWords(const std::byte* p) : x(Of::read(p)) {}
    typename Of::Vector word(int) const { return x; }
};

struct Bf16Pairs {
    static constexpr int kPairs = 1;
    vb x;
    explicit Bf16Pairs(const std::byte* p) : x(load_pairs(p)) {}
    vb unit(int) const { return x; }
};

struct Int8Pairs : Int8Codes {
    static constexpr int kPairs = 2;
    explicit Int8Pairs(const std::byte* p) : Int8Codes(p, kInt8Tables) {}
};

struct Int4Pairs : Int4Codes {
    static constexpr int kPairs = 4;
    explicit Int4Pairs(const std::byte* p) : Int4Codes(p, kInt4Levels) {}
};

struct Fp4Pairs : Int4Codes {
    static constexpr int kPairs = 4;
    explicit Fp4Pairs(const std::byte* p) : Int4Codes(p, kFp4Levels) {}
};

struct NibblePairs : Int4Codes {
    static constexpr int kPairs = 4;
    explicit NibblePairs(const std::byte* p) : Int4Codes(p, kNibbleLevels) {}
};

// W scales of a group.
template <GroupScales kScales>
KEPT_INLINE vf load_scales(const std::uint16_t* p) {
    static_assert(kScales != GroupScales::none);
    return kScales == GroupScales::fp16 ? load_fp16(p) : load_bf16(p);
}

// PairWords of bf16 that a format's codes make, as words.
template <class Of, class Codes>
struct ReadPairs {
    static constexpr int kInputs = 2 * Codes::kPairs, kWords = kInputs / Of::kInputs;
    Codes codes;
    explicit ReadPairs(const std::byte* p) : codes(p) {}
    typename Of::Vector word(int i) const {
        if constexpr (std::is_same_v<Of, PairWords>) {
            return codes.unit(i);
        } else {
            vf both[2];
            Bf16Code::widen(codes.unit(i / 2), both);
            return both[i % 2];
        }
    }
};

// Vectors of sums that registers hold beside operands.
constexpr int kTileSums = kMaxRows * NV;

// Words of rows lie together, those of one place of every row side by side, in whole vectors where
// one is not enough.
constexpr int words_stride(int rows) {
    return rows <= W ? rows : static_cast<int>(round_up(rows, W));
}

// What a tile needs. `ahead` is prefetched as the tile goes: with kStreams the two lines of a step,
// to the nearest cache; else a line a step, `ahead_stride` bytes apart, to the outer one.
struct TileArgs {
    const std::byte* b;
    const std::byte* a;  // words of the rows
    std::int64_t num_inputs;
    float* c;     // (rows, 32) sums
    bool resume;  // go on from what c holds
    const std::byte* ahead;
    std::int64_t ahead_stride;
    const std::uint16_t* scales;  // of the first group, 32 a group, where there are any
};

// Sums over `num_inputs` inputs from `first_input` on, for kGroups groups of as many side by side:
// chains of their own keep the units busy where there are few rows.
template <class Of, class Read, bool kStreams, int kRows, int kVectors, int kGroups>
KEPT_INLINE void steps(const TileArgs& t, std::int64_t first_input, std::int64_t num_inputs,
                       vf acc[kGroups][kRows][kVectors]) {
    constexpr std::int64_t kRowWords = words_stride(kRows) * kWordBytes;
    constexpr std::int64_t kStepWords = Read::kWords * kRowWords;
    const std::int64_t first = first_input / Read::kInputs, count = num_inputs / Read::kInputs;
    const std::int64_t stride = kStreams ? kStepBytes : t.ahead_stride;
    const std::byte* b = t.b + first * kStepBytes;
    const std::byte* const end = b + count * kStepBytes;
    const std::byte* a = t.a + first * kStepWords;
    const std::byte* ahead = t.ahead + first * stride;
    const auto step = [&](int at) __attribute__((always_inline)) {
        KEPT_UNROLL_ALL
        for (int g = 0; g < kGroups; ++g) {
            const std::int64_t place = g * count + at;
            if constexpr (kStreams) {
                prefetch_near(ahead + place * stride);
                prefetch_near(ahead + place * stride + 64);
            } else {
                prefetch_outer(ahead + place * stride);
            }
            [&]<std::size_t... v>(std::index_sequence<v...>) __attribute__((always_inline)) {
                const Read read[kVectors] = {Read(
                    b + place * kStepBytes + static_cast<std::int64_t>(v) * W * kWordBytes)...};
                KEPT_UNROLL_ALL
                for (int i = 0; i < Read::kWords; ++i) {
                    const typename Of::Vector w[kVectors] = {read[v].word(i)...};
                    KEPT_UNROLL_ALL
                    for (int r = 0; r < kRows; ++r) {
                        const auto x =
                            Of::broadcast(a + place * kStepWords + i * kRowWords + r * kWordBytes);
                        KEPT_UNROLL_ALL
                        for (int j = 0; j < kVectors; ++j)
                            acc[g][r][j] = Of::mac(acc[g][r][j], x, w[j]);
                    }
                }
            }(std::make_index_sequence<static_cast<std::size_t>(kVectors)>());
        }
    };
    // Counting would take turns with the products on the units that multiply.
    constexpr int kSteps = kStreams ? 1 : 4;
    for (; b != end; b += kSteps * kStepBytes, a += kSteps * kStepWords, ahead += kSteps * stride) {
        KEPT_UNROLL_ALL
        for (int at = 0; at < kSteps; ++at) step(at);
    }
}

template <class Of, class Read, bool kStreams, int kRows, int kVectors>
void tile(const TileArgs& t) {
    vf acc[1][kRows][kVectors];
    KEPT_UNROLL_ALL
    for (int r = 0; r < kRows; ++r) {
        KEPT_UNROLL_ALL
        for (int v = 0; v < kVectors; ++v)
            acc[0][r][v] = t.resume ? load(t.c + r * kPanel + v * W) : zero();
    }
    steps<Of, Read, kStreams, kRows, kVectors, 1>(t, 0, t.num_inputs, acc);
    KEPT_UNROLL_ALL
    for (int r = 0; r < kRows; ++r) {
        KEPT_UNROLL_ALL
        for (int v = 0; v < kVectors; ++v) store(t.c + r * kPanel + v * W, acc[0][r][v]);
    }
}

// Groups [group, group + kTogether), scaled and added in this order to the sums in memory, in the
// nearest cache: registers are for the sums within a group.
template <class Of, class Read, GroupScales kScales, bool kStreams, int kRows, int kVectors,
          int kTogether>
KEPT_INLINE void add_groups(const TileArgs& t, std::int64_t group, bool resume) {
    vf acc[kTogether][kRows][kVectors];
    KEPT_UNROLL_ALL
    for (int g = 0; g < kTogether; ++g) {
        KEPT_UNROLL_ALL
        for (int r = 0; r < kRows; ++r) {
            KEPT_UNROLL_ALL
            for (int v = 0; v < kVectors; ++v) acc[g][r][v] = zero();
        }
    }
    steps<Of, Read, kStreams, kRows, kVectors, kTogether>(t, group * kGroup, kGroup, acc);
    KEPT_UNROLL_ALL
    for (int v = 0; v < kVectors; ++v) {
        vf scales[kTogether];
        KEPT_UNROLL_ALL
        for (int g = 0; g < kTogether; ++g)
            scales[g] = load_scales<kScales>(t.scales + (group + g) * kPanel + v * W);
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
template <class Of, class Read, GroupScales kScales, bool kStreams, int kRows, int kVectors>
void grouped_tile(const TileArgs& t) {
    constexpr int kSums = kRows * kVectors;
    constexpr int kTogether = 4 * kSums <= kTileSums ? 4 : 2 * kSums <= kTileSums ? 2 : 1;
    const std::int64_t num_groups = t.num_inputs / kGroup;
    std::int64_t group = 0;
    for (; group + kTogether <= num_groups; group += kTogether)
        add_groups<Of, Read, kScales, kStreams, kRows, kVectors, kTogether>(t, group,
                                                                            t.resume || group > 0);
    for (; group < num_groups; ++group)
        add_groups<Of, Read, kScales, kStreams, kRows, kVectors, 1>(t, group,
                                                                    t.resume || group > 0);
}

// Calls f.run<n>() for the n in kLeast..kMax that equals `rows`.
template <int kMax, int kLeast = 1, class F>
inline void with_rows(int rows, const F& f) {
    if constexpr (kMax == kLeast) {
        f.template run<kMax>();
    } else {
        if (rows == kMax)
            f.template run<kMax>();
        else
            with_rows<kMax - 1, kLeast>(rows, f);
    }
}

}  // namespace kept::KEPT_NS
