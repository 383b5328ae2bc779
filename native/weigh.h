// The weights of a row's tokens: whole numbers, so that their sums are the same in any order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "sampling.h"
#include "simd.h"

namespace kept::KEPT_NS {

// 2^42 exp(x) of x <= 0, not rounded yet: 0.06 or less, which rounds to no weight, below -32. No
// operation is fused with another, so that every instruction set, and numpy, finds the same bits. A
// polynomial after Cephes (S. L. Moshier).
inline vf raised(vf x) {
    x = max(set1(-32.0f), x);
    const vf n = round_even(mul(x, set1(1.44269504088896341f)));
    vf r = sub(x, mul(n, set1(0.693359375f)));
    r = sub(r, mul(n, set1(-2.12194440e-4f)));
    vf p = set1(1.9875691500e-4f);
    p = add(mul(p, r), set1(1.3981999507e-3f));
    p = add(mul(p, r), set1(8.3334519073e-3f));
    p = add(mul(p, r), set1(4.1665795894e-2f));
    p = add(mul(p, r), set1(1.6666665459e-1f));
    p = add(mul(p, r), set1(5.0000001201e-1f));
    p = add(add(mul(p, mul(r, r)), r), set1(1.0f));
    return scale_by_power(p, add(n, set1(42.0f)));
}

// The sum of whole numbers up to 2^42 in many lanes, each in three parts that floats add exactly.
struct WeightSum {
    vf high = zero(), middle = zero(), low = zero();

    void add_rounded(vf x) {
        const vf a = round_even(mul(x, set1(0x1p-28f)));
        x = sub(x, mul(a, set1(0x1p28f)));
        const vf b = round_even(mul(x, set1(0x1p-14f)));
        x = sub(x, mul(b, set1(0x1p14f)));
        high = add(high, a);
        middle = add(middle, b);
        low = add(low, round_even(x));
    }

    std::int64_t total() const {
        return whole(high) * (1 << 28) + whole(middle) * (1 << 14) + whole(low);
    }

    static std::int64_t whole(vf part) {
        float lanes[W];
        store(lanes, part);
        std::int64_t sum = 0;
        for (const float lane : lanes) sum += static_cast<std::int64_t>(lane);
        return sum;
    }
};

// The sum of a chunk, whole vectors of tokens.
template <bool Divides>
std::int64_t weigh_chunk(const float* scores, std::int64_t count, float peak, float temperature) {
    WeightSum sum;
    for (std::int64_t i = 0; i < count; i += W) {
        const vf x = load(scores + i);
        sum.add_rounded(raised(sub(Divides ? div(x, set1(temperature)) : x, set1(peak))));
    }
    return sum.total();
}

inline void weigh(const WeighArgs& args, std::int64_t first_chunk, std::int64_t last_chunk) {
    const auto sum_of = args.temperature == 1.0f ? weigh_chunk<false> : weigh_chunk<true>;
    float padded[kWeightChunk];
    for (std::int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
        const float* scores = args.scores + chunk * kWeightChunk;
        const std::int64_t count = args.size - chunk * kWeightChunk;
        if (count < kWeightChunk) {
            std::fill_n(padded, kWeightChunk, -std::numeric_limits<float>::infinity());
            std::copy_n(scores, count, padded);
            scores = padded;
        }
        args.sums[chunk] = sum_of(scores, kWeightChunk, args.peak, args.temperature);
    }
}

}  // namespace kept::KEPT_NS
