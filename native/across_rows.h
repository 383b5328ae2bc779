// What becomes of the lanes of each of several vectors, for all of them together: half of the
// shuffles that one after the other takes, and none that waits for another row's.
#pragma once

#include <algorithm>

#include "wide.h"

namespace kept::KEPT_NS {

#if defined(__AVX512F__)

// In lane r the lanes of x[r], of 8 or 16 vectors of 32-bit elements, put together by op(a, b).
// Which lanes of a vector meet in which order depends on no other vector, nor on their number.
template <int kRows, class Op>
KEPT_INLINE __m512i fold_rows(__m512i* x, const Op& op) {
    static_assert(kRows == W / 2 || kRows == W);
    KEPT_UNROLL_ALL
    for (int i = 0; i < kRows; i += 2)
        x[i] = op(_mm512_unpacklo_epi32(x[i], x[i + 1]), _mm512_unpackhi_epi32(x[i], x[i + 1]));
    KEPT_UNROLL_ALL
    for (int i = 0; i < kRows; i += 4)
        x[i] = op(_mm512_unpacklo_epi64(x[i], x[i + 2]), _mm512_unpackhi_epi64(x[i], x[i + 2]));
    // Four rows in each 128 bits.
    const auto halves = [&](__m512i a, __m512i b) {
        return op(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    };
    const __m512i low = halves(x[0], x[4]);
    return halves(low, kRows == W ? halves(x[8], x[12]) : low);
}

template <class Op>
KEPT_INLINE __m512i fold_rows(__m512i* x, int rows, const Op& op) {
    const auto pad = [&](int end) {
        for (int r = rows; r < end; ++r) x[r] = x[0];
    };
    if (rows <= W / 2) {
        pad(W / 2);
        return fold_rows<W / 2>(x, op);
    }
    pad(W);
    return fold_rows<W>(x, op);
}

#elif defined(__AVX2__)

template <class Op>
KEPT_INLINE __m256i fold_rows(__m256i* x, int rows, const Op& op) {
    for (int r = rows; r < W; ++r) x[r] = x[0];
    KEPT_UNROLL_ALL
    for (int i = 0; i < W; i += 2)
        x[i] = op(_mm256_unpacklo_epi32(x[i], x[i + 1]), _mm256_unpackhi_epi32(x[i], x[i + 1]));
    KEPT_UNROLL_ALL
    for (int i = 0; i < W; i += 4)
        x[i] = op(_mm256_unpacklo_epi64(x[i], x[i + 2]), _mm256_unpackhi_epi64(x[i], x[i + 2]));
    return op(_mm256_permute2x128_si256(x[0], x[4], 0x20),
              _mm256_permute2x128_si256(x[0], x[4], 0x31));
}

#endif

#if defined(__AVX512F__)
inline vf floats_in(vi x) {
    return _mm512_castsi512_ps(x);
}
inline vi bits_in(vf x) {
    return _mm512_castps_si512(x);
}
#elif defined(__AVX2__)
inline vf floats_in(vi x) {
    return _mm256_castsi256_ps(x);
}
inline vi bits_in(vf x) {
    return _mm256_castps_si256(x);
}
#endif

// The largest lane of each of `rows` vectors, at most W, which are lost; what is in lanes of `out`
// behind them says nothing.
KEPT_INLINE void largest_of_rows(vf* x, int rows, float* out) {
#if defined(__AVX2__)
    const auto op = [](vi a, vi b) { return bits_in(max(floats_in(a), floats_in(b))); };
    store(out, floats_in(fold_rows(reinterpret_cast<vi*>(x), rows, op)));
#else
    std::fill_n(out, W, 0.0f);
    for (int r = 0; r < rows; ++r) out[r] = reduce_max(x[r]);
#endif
}

// The sum of all lanes of each, the same way.
KEPT_INLINE void totals_of_rows(vi* x, int rows, std::int32_t* out) {
#if defined(__AVX2__)
    const vi totals = fold_rows(x, rows, [](vi a, vi b) { return plus(a, b); });
    write_vector(reinterpret_cast<std::byte*>(out), totals);
#else
    for (int r = 0; r < rows; ++r) out[r] = total_of(x[r]);
#endif
}

}  // namespace kept::KEPT_NS
