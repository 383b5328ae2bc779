// Elementary functions on vectors, each lane on its own: the result of a lane never depends on the
// others. Polynomials after Cephes (S. L. Moshier).
#pragma once

#include "simd.h"

namespace kept::KEPT_NS {

// Relative error below 2e-7; 0 below -87.3, where floats lose their precision, and for -inf.
inline vf exp(vf x) {
    const vf low = set1(-87.3f);
    const vf clamped = min(set1(88.7f), max(low, x));  // in this order NaN stays NaN
    const vf n = round_even(mul(clamped, set1(1.44269504088896341f)));
    vf r = fma(n, set1(-0.693359375f), clamped);
    r = fma(n, set1(2.12194440e-4f), r);
    vf p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), set1(1.0f));
    // In two steps, since 2^128 is no float where n is 128.
    const vf half = round_even(mul(n, set1(0.5f)));
    p = scale_by_power(scale_by_power(p, half), sub(n, half));
    return where_less(x, low, zero(), p);
}

// 2^x of x up to 0, below 1.5e-7 from it, or 3e-6 where what is made of it is rounded to bf16; 1 of
// 0; 0 below -126. Minimax polynomials over what x is above a whole number.
template <bool kRounds>
inline vf exp2(vf x) {
    const vf f = above_floor(x);
    vf p;
    if constexpr (kRounds) {
        p = fma(set1(0.0134266838f), f, set1(0.0522424728f));
        p = fma(p, f, set1(0.241280198f));
        p = fma(p, f, set1(0.693044841f));
    } else {
        p = fma(set1(0.00186713005f), f, set1(0.00901703071f));
        p = fma(p, f, set1(0.0557999127f));
        p = fma(p, f, set1(0.240164444f));
        p = fma(p, f, set1(0.693151295f));
    }
    return scale_by_floor(fma(p, f, set1(1.0f)), x);
}

inline vf sigmoid(vf x) {
    return div(set1(1.0f), add(set1(1.0f), exp(sub(zero(), x))));
}

inline vf tanh(vf x) {
    const vf size = abs(x);
    const vf square = mul(x, x);
    vf p = set1(-5.70498872745e-3f);
    p = fma(p, square, set1(2.06390887954e-2f));
    p = fma(p, square, set1(-5.37397155531e-2f));
    p = fma(p, square, set1(1.33314422036e-1f));
    p = fma(p, square, set1(-3.33332819422e-1f));
    const vf small = fma(mul(p, square), x, x);
    const vf large = sub(set1(1.0f), div(set1(2.0f), add(exp(add(size, size)), set1(1.0f))));
    const vf signed_large = where_less(x, zero(), sub(zero(), large), large);
    return where_less(size, set1(0.625f), small, signed_large);
}

// cap * tanh(x / cap); x where the cap is 0.
inline vf soft_cap(vf x, float cap) {
    return cap > 0 ? mul(set1(cap), tanh(div(x, set1(cap)))) : x;
}

// x / 2 * (1 + tanh(u)) = x * sigmoid(2 u) with u = sqrt(2 / pi) * (x + 0.044715 x^3).
inline vf gelu_tanh(vf x) {
    const vf cube = mul(mul(x, x), x);
    return mul(x, sigmoid(mul(set1(1.5957691216057308f), fma(set1(0.044715f), cube, x))));
}

inline vf gelu(vf x) {
    float lanes[W];
    store(lanes, x);
    for (float& lane : lanes) lane = 0.5f * lane * (1.0f + std::erf(lane * 0.70710678118654752f));
    return load(lanes);
}

}  // namespace kept::KEPT_NS
