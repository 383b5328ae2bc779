// A block of up to 15 rows times one panel of weights with a scale for each 32 inputs, on matrix
// tiles.
//
// What two tiles have multiplied of a group leaves them at once, and its rows are scaled and added
// to sums that stay in registers over all groups, 30 vectors of them. Rows are multiples of units
// (group_units.h), so that a group's products add up exactly, as they do in whole numbers
// (fixed_tile.h), and the chain over groups is the same:
//
//   sum = 0;  for each group in ascending order:  sum = fma(group's sum, scale, sum)
//
// Three groups are on their way at once: one is multiplied while the one before leaves its tiles
// and the one before that is added.
//
//   products 0 1 | 4 rows        6 7 weights: two tiles of 16 outputs
//            2 3 | 5 those of the next group
#pragma once

#include "fused.h"
#include "linear_tile_block.h"

namespace kept::KEPT_NS {

constexpr int kGroupRows = kGroupBlock;
constexpr int kHalfColumns = kPanel / 2, kHalfVectors = kHalfColumns / W;
constexpr std::int64_t kHalfFloats = kTileRows * kHalfColumns;  // of a tile of products
constexpr std::int64_t kProductFloats = 4 * kHalfFloats;        // of two groups

struct GroupBlock {
    const std::byte* a;   // (groups, rows, 32 inputs) bf16
    const std::byte* b;   // (groups, 16 pairs of inputs, 32 outputs, 2) bf16
    const float* scales;  // (groups, 32)
    std::int64_t num_groups;
    float* sums;      // (rows, 32)
    float* products;  // room for kProductFloats
};

// Calls f(row) for each, with constants where registers hold a vector of each row: a loop that the
// compiler unrolls too late would leave them in memory.
template <int kRows, class F>
KEPT_INLINE void for_rows(const F& f) {
    if constexpr (W == kHalfColumns)
        for_constants<kRows>(
            [&]<int r>() __attribute__((always_inline)) { f(std::integral_constant<int, r>{}); });
    else
        for (int r = 0; r < kRows; ++r) f(r);
}

// A group's products (16, 16) with half a panel, scaled and added.
template <int kRows>
KEPT_INLINE void add_half(const float* products, const float* scales,
                          vf (&sums)[kHalfVectors][kRows]) {
    // Opaque, or GCC keeps a register for the address of each row.
    asm("" : "+r"(products));
    for (int v = 0; v < kHalfVectors; ++v) {
        const vf scale = load(scales + v * W);
        for_rows<kRows>([&](auto r) __attribute__((always_inline)) {
            sums[v][r] = fused(load(products + r * kHalfColumns + v * W), scale, sums[v][r]);
        });
    }
}

template <int kRows, bool kStores>
KEPT_INLINE void move_half(float* memory, vf (&sums)[kHalfVectors][kRows]) {
    for (int v = 0; v < kHalfVectors; ++v)
        for_rows<kRows>([&](auto r) __attribute__((always_inline)) {
            float* const at = memory + r * kPanel + v * W;
            if constexpr (kStores)
                store(at, sums[v][r]);
            else
                sums[v][r] = load(at);
        });
}

template <class Tiles, int kRows>
void group_sums(const GroupBlock& x, Upcoming& upcoming) {
    constexpr std::int64_t kStepA = kRows * kTileRowBytes;
    const std::byte *a = x.a, *b = x.b;
    const float* scales = x.scales;
    float* const even = x.products;
    float* const odd = even + 2 * kHalfFloats;
    vf left[kHalfVectors][kRows], right[kHalfVectors][kRows];
    const auto left_product = [&]<int first>() __attribute__((always_inline)) {
        Tiles::template zero<first>();
        Tiles::template load_settled_passing<4 + first / 2>(a, kTileRowBytes);
        Tiles::template load_settled<6>(b, kStepBytes);
        Tiles::template dot<first, 4 + first / 2, 6>();
    };
    const auto right_product = [&]<int first>() __attribute__((always_inline)) {
        Tiles::template zero<first + 1>();
        Tiles::template load_settled<7>(b + kTileRowBytes, kStepBytes);
        Tiles::template dot<first + 1, 4 + first / 2, 7>();
        a += kStepA, b += kDotBytes;
        upcoming.fetch();
    };
    const auto take = [&]<int first>(float* to) __attribute__((always_inline)) {
        Tiles::template store_rows<first>(to);
        Tiles::template store_rows<first + 1>(to + kHalfFloats);
    };
    const auto add = [&](const float* from) __attribute__((always_inline)) {
        add_half<kRows>(from, scales, left);
        add_half<kRows>(from + kHalfFloats, scales + kHalfColumns, right);
        scales += kPanel;
    };
    // A group into tiles `first` and the next, those of `other` to memory, and what is there `from`
    // before added.
    const auto step = [&]<int first, int other>(float* to, const float* from)
                          __attribute__((always_inline)) {
                              left_product.template operator()<first>();
                              Tiles::template store_rows<other>(to);
                              add_half<kRows>(from, scales, left);
                              right_product.template operator()<first>();
                              Tiles::template store_rows<other + 1>(to + kHalfFloats);
                              add_half<kRows>(from + kHalfFloats, scales + kHalfColumns, right);
                              scales += kPanel;
                          };
    Tiles::settle();
    move_half<kRows, false>(x.sums, left);
    move_half<kRows, false>(x.sums + kHalfColumns, right);
    std::int64_t count = x.num_groups;
    if (count % 2) {
        left_product.template operator()<0>();
        right_product.template operator()<0>();
        take.template operator()<0>(even);
        add(even);
    }
    if (count /= 2) {
        left_product.template operator()<0>();
        right_product.template operator()<0>();
        left_product.template operator()<2>();
        right_product.template operator()<2>();
        take.template operator()<0>(even);
        while (--count) {
            step.template operator()<0, 2>(odd, even);
            step.template operator()<2, 0>(even, odd);
        }
        take.template operator()<2>(odd);
        add(even);
        add(odd);
    }
    move_half<kRows, true>(x.sums, left);
    move_half<kRows, true>(x.sums + kHalfColumns, right);
    // The compiler must not write next what the loads above, unknown to it, have yet to read.
    Tiles::settle();
}

}  // namespace kept::KEPT_NS
