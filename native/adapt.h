// The products of low-rank adapters, in fp32 whatever numbers they are stored as. Each sum is one
// chain, over vectors of inputs or over ranks in ascending order, whatever other rows there are.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "simd.h"

namespace kept::KEPT_NS {

inline vf load_wide(const float* p) {
    return load(p);
}
inline vf load_wide(const std::uint16_t* p) {
    return load_bf16(p);
}

// Two rows with four ranks. Where there are fewer, the last is taken again.
template <class X, class D>
KEPT_INLINE void shrink_tile(const ShrinkArgs& args, std::int64_t row, std::int64_t rank,
                             std::int64_t last_rank) {
    constexpr int R = 2, K = 4;
    const LowRank& a = *args.adapter;
    const X* x[R];
    const D* down[K];
    std::int64_t rows[R], ranks[K];
    for (int r = 0; r < R; ++r) {
        rows[r] = args.rows[std::min(row + r, args.num_rows - 1)];
        x[r] = static_cast<const X*>(args.x) + rows[r] * args.x_stride;
    }
    for (int k = 0; k < K; ++k) {
        ranks[k] = std::min(rank + k, last_rank - 1);
        down[k] = static_cast<const D*>(a.down) + ranks[k] * a.padded_in;
    }
    vf sums[R][K];
    for (auto& of_row : sums)
        for (vf& sum : of_row) sum = zero();
    for (std::int64_t i = 0; i < a.padded_in; i += W) {
        vf wide[K];
        KEPT_UNROLL_ALL for (int k = 0; k < K; ++k) wide[k] = load_wide(down[k] + i);
        KEPT_UNROLL_ALL for (int r = 0; r < R; ++r) {
            const vf own = load_wide(x[r] + i);
            KEPT_UNROLL_ALL for (int k = 0; k < K; ++k) sums[r][k] =
                add_product(sums[r][k], own, wide[k]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int k = 0; k < K; ++k)
            args.narrow[rows[r] * args.narrow_stride + ranks[k]] =
                reduce_add(sums[r][k]) * a.scales[ranks[k]];
}

template <class X, class D>
inline void shrink_rows(const ShrinkArgs& args, std::int64_t first, std::int64_t last) {
    for (std::int64_t row = 0; row < args.num_rows; row += 2)
        for (std::int64_t rank = first; rank < last; rank += 4)
            shrink_tile<X, D>(args, row, rank, last);
}

// Units are ranks.
inline void shrink(const ShrinkArgs& args, std::int64_t first, std::int64_t last) {
    using Bf16 = std::uint16_t;
    if (args.is_bf16)
        return args.adapter->is_bf16 ? shrink_rows<Bf16, Bf16>(args, first, last)
                                     : shrink_rows<Bf16, float>(args, first, last);
    return args.adapter->is_bf16 ? shrink_rows<float, Bf16>(args, first, last)
                                 : shrink_rows<float, float>(args, first, last);
}

// So many strips from `index` on, of equally many ranks each, for R rows: one chain for each of
// them and vector, so that none waits for the sum before.
template <int R, int S, class D>
KEPT_INLINE void expand_tile(const ExpandArgs& args, std::int64_t index, const Strip* strips,
                             std::int64_t row) {
    constexpr int V = kStrip / W;
    const D* up[S];
    const float* narrow[R];
    vf sums[R][S * V];
    for (int s = 0; s < S; ++s) up[s] = static_cast<const D*>(args.adapter->up) + strips[s].at;
    for (int r = 0; r < R; ++r) {
        narrow[r] = args.narrow + args.rows[row + r] * args.narrow_stride;
        for (vf& sum : sums[r]) sum = zero();
    }
    const std::int64_t ranks = strips[0].last - strips[0].first;
    for (std::int64_t k = 0; k < ranks; ++k) KEPT_UNROLL_ALL for (int s = 0; s < S; ++s) {
            vf wide[V];
            KEPT_UNROLL_ALL for (int v = 0; v < V; ++v) wide[v] =
                load_wide(up[s] + k * kStrip + v * W);
            KEPT_UNROLL_ALL for (int r = 0; r < R; ++r) {
                const vf own = set1(narrow[r][strips[s].first + k]);
                KEPT_UNROLL_ALL for (int v = 0; v < V; ++v) sums[r][s * V + v] =
                    add_product(sums[r][s * V + v], own, wide[v]);
            }
        }
    for (int r = 0; r < R; ++r) {
        float* out = args.sums + args.rows[row + r] * args.sums_stride + index * kStrip;
        for (int v = 0; v < S * V; ++v) store(out + v * W, sums[r][v]);
    }
}

template <int S, class D>
KEPT_INLINE void expand_rows(const ExpandArgs& args, std::int64_t index, const Strip* strips) {
    std::int64_t row = 0;
    for (; row + 4 <= args.num_rows; row += 4) expand_tile<4, S, D>(args, index, strips, row);
    for (; row + 2 <= args.num_rows; row += 2) expand_tile<2, S, D>(args, index, strips, row);
    for (; row < args.num_rows; ++row) expand_tile<1, S, D>(args, index, strips, row);
}

template <class D>
inline void expand_strips(const ExpandArgs& args, std::int64_t first, std::int64_t last) {
    constexpr int kAtOnce = W < kStrip ? 2 : 4;
    for (std::int64_t index = first; index < last;) {
        Strip strips[kAtOnce];
        int count = 0;
        for (; count < kAtOnce && index + count < last; ++count) {
            // An adapter that leaves the layer alone has no strips.
            Strip& strip = strips[count];
            strip = args.adapter->rank ? args.adapter->strip(index + count) : Strip{0, 0, 0};
            if (strip.last - strip.first != strips[0].last - strips[0].first) break;
        }
        if (count == kAtOnce) {
            expand_rows<kAtOnce, D>(args, index, strips);
            index += kAtOnce;
        } else {
            expand_rows<1, D>(args, index, strips);
            ++index;
        }
    }
}

// Units are strips.
inline void expand(const ExpandArgs& args, std::int64_t first, std::int64_t last) {
    if (args.adapter->is_bf16)
        expand_strips<std::uint16_t>(args, first, last);
    else
        expand_strips<float>(args, first, last);
}

}  // namespace kept::KEPT_NS
