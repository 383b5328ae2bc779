// Of each of W vectors what a function makes of its lanes, side by side.
#pragma once

#include "simd.h"

namespace kept::KEPT_NS {

// combine(a, b): of two vectors, lane by lane, and the same in any order.
#if defined(__AVX512F__)
// Two vectors become one in each round, half the shuffles that turning them takes.
template <class Combine>
KEPT_INLINE vf across(vf (&x)[W], const Combine& combine) {
    KEPT_UNROLL_ALL
    for (int i = 0; i < 8; ++i) {
        const vf a = x[2 * i], b = x[2 * i + 1];
        x[i] = combine(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    KEPT_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
        const __m512d a = _mm512_castps_pd(x[2 * i]), b = _mm512_castps_pd(x[2 * i + 1]);
        x[i] = combine(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    KEPT_UNROLL_ALL
    for (int count = 2; count > 0; count /= 2)
        for (int i = 0; i < count; ++i) {
            const vf a = x[2 * i], b = x[2 * i + 1];
            x[i] = combine(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
        }
    return x[0];
}
#else
template <class Combine>
KEPT_INLINE vf across(vf (&x)[W], const Combine& combine) {
    vb rows[W];
    for (int i = 0; i < W; ++i) rows[i] = reinterpret_cast<vb>(x[i]);
    transpose(rows);
    for (int i = 0; i < W; ++i) x[i] = reinterpret_cast<vf>(rows[i]);
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) x[i] = combine(x[i], x[i + half]);
    return x[0];
}
#endif

}  // namespace kept::KEPT_NS
