// What the products of attention take: the operands, and their vectors as keys and values hold
// them.
#pragma once

#include <algorithm>
#include <type_traits>

#include "codes.h"
#include "kernels.h"
#include "tile.h"

namespace kept::KEPT_NS {

// Vectors of sums that registers hold beside operands, and queries that are worked on together: two
// vectors of sums each, and a lane of a vector.
constexpr int kSums = kMaxRows * NV;
constexpr int kTurn = std::min(kSums / 2, W);

constexpr std::int64_t kKeyStep = 4 * kTile;  // bytes

// What goes into the products. kInputs of a step, kKeyInputs of a word of keys, kRounds: weights
// are rounded to bf16, kWide: codes are multiplied by wide numbers (wide.h) instead. add_in_place()
// is mac() for loops that are unrolled over all sums.
//
// Floats, of bf16 numbers or of any.
template <bool kOfBf16>
struct FloatOperands {
    using Act = float;
    using Vector = vf;
    static constexpr bool kPairs = false, kRounds = kOfBf16, kWide = kOfBf16;
    static constexpr int kInputs = 1, kKeyInputs = kOfBf16 ? 2 : 1;
    static Vector read(const std::byte* p) { return load(reinterpret_cast<const float*>(p)); }
    static void write(std::byte* p, Vector x) { store(reinterpret_cast<float*>(p), x); }
    static Vector broadcast(const Act* a) { return set1(*a); }
    static vf mac(vf acc, Vector a, Vector b) { return fma(a, b, acc); }
    static vf add_in_place(vf acc, Vector a, Vector b) { return add_product(acc, a, b); }
    static vf put(Act* to, const vf* p) {
        vf total = zero();
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; ++i) {
            const vf x = kOfBf16 ? nearest_bf16(p[i]) : p[i];
            store(to + i * W, x);
            total = add(total, x);
        }
        return total;
    }
};

#if defined(__AVX512BF16__)

// Pairs of bf16, where one instruction takes them.
struct PairOperands {
    using Act = std::uint16_t;
    using Vector = vb;
    static constexpr bool kPairs = true, kRounds = true, kWide = true;
    static constexpr int kInputs = 2, kKeyInputs = 2;
    static Vector read(const std::byte* p) { return load_pairs(p); }
    static void write(std::byte* p, Vector x) { store_pairs(p, x); }
    static Vector broadcast(const Act* a) { return set1_pair(a); }
    static vf mac(vf acc, Vector a, Vector b) { return dp(acc, a, b); }
    static vf add_in_place(vf acc, Vector a, Vector b) { return dp(acc, a, b); }
    // Stores the weights of a tile, and adds them up as they are stored.
    static vf put(Act* to, const vf* p) {
        static constexpr std::uint16_t kOnes[2] = {0x3f80, 0x3f80};
        vf total = zero();
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; i += 2) {
            const vb pairs = narrow_pairs(p[i], p[i + 1]);
            store_pairs(to + i * W, pairs);
            total = dp(total, pairs, set1_pair(kOnes));
        }
        return total;
    }
};

using Bf16Operands = PairOperands;

#else

using Bf16Operands = FloatOperands<true>;

#endif

// Whether bf16 stays as it is stored until the products, which widen it: half as much for the
// nearest cache to hold.
template <class Of>
constexpr bool kWidens = Of::kKeyInputs > Of::kInputs;

// The vectors of a word of stored codes: of each step that they make.
template <class Of, class Code>
KEPT_INLINE void split(vb words, typename Of::Vector* out) {
    if constexpr (Of::kPairs)
        Code::pair(words, out);
    else
        Code::widen(words, out);
}

// What is fetched from memory on the way.
struct Fetch {
    const std::byte* p;
    std::int64_t bytes;
};

// Vectors that the products take, kParts of each step: part 0 meets the first of its inputs.

// Values as they are stored. Where bf16 is widened, of each two vectors first what comes 0, 2, 4,
// ... and then what comes 1, 3, 5, ...: see order_sums().
template <class Of, class Code>
struct StoredValues {
    static constexpr int kInputs = Of::kInputs, kParts = 1;
    const std::byte* const* rows;

    template <int kVectors>
    KEPT_INLINE void read(std::int64_t step, int, std::int64_t first,
                          typename Of::Vector* out) const {
        static_assert(kVectors % 2 == 0);
        if constexpr (Of::kPairs) {
            KEPT_UNROLL_ALL
            for (int v = 0; v < kVectors; v += 2)
                Code::zip(rows[2 * step], rows[2 * step + 1], first + v * W, out + v);
        } else if constexpr (kWidens<Of>) {
            KEPT_UNROLL_ALL
            for (int v = 0; v < kVectors; v += 2)
                Code::widen(load_pairs(rows[step] + 2 * (first + v * W)), out + v);
        } else {
            KEPT_UNROLL_ALL
            for (int v = 0; v < kVectors; ++v) out[v] = Code::read(rows[step], first + v * W);
        }
    }
};

// Of a tile that was expanded: steps lie `stride` bytes apart.
template <class Of>
struct Expanded {
    static constexpr int kInputs = Of::kInputs, kParts = 1;
    const std::byte* at;
    std::int64_t stride;

    template <int kVectors>
    KEPT_INLINE void read(std::int64_t step, int, std::int64_t first,
                          typename Of::Vector* out) const {
        KEPT_UNROLL_ALL
        for (int v = 0; v < kVectors; ++v)
            out[v] = Of::read(at + step * stride + (first + v * W) * 4);
    }
};

// Keys in words of two bf16, which become two steps.
struct PairedKeys {
    static constexpr int kInputs = 2, kParts = 2;
    const std::byte* at;

    template <int kVectors>
    KEPT_INLINE void read(std::int64_t step, int part, std::int64_t first, vf* out) const {
        const std::byte* from = at + step * kKeyStep + first * 4;
        // Words are read once more for the second part: registers are for sums.
        asm("" : "+r"(from));
        KEPT_UNROLL_ALL
        for (int v = 0; v < kVectors; ++v) {
            vf both[2];
            Bf16Code::widen(load_pairs(from + v * W * 4), both);
            out[v] = both[part];
        }
    }
};

template <class Of>
struct ExpandedKeys : Expanded<Of> {
    explicit ExpandedKeys(const std::byte* at) : Expanded<Of>{at, kKeyStep} {}
};

template <class Of>
using Keys = std::conditional_t<kWidens<Of>, PairedKeys, ExpandedKeys<Of>>;

}  // namespace kept::KEPT_NS
