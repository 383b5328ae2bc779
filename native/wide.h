// Products of attention in whole numbers: wide ones (queries, or weights of a tile) times codes as
// they are stored. Summed in int32, exactly and so in any order.
//
// A wide number is at most kMostWide in size, so that it is 256 times an int8 more than another;
// its rounding is 2^-17 of that, where a bf16's is 2^-9 of itself. With up to 512 int8 codes its
// products stay within an int32, and of half its size with up to 1,024.
//
//   vi                  W int32, a column each
//   kWideInputs         inputs of a step: 4 bytes of each of W columns are a vector of codes
//   kWideSums           vectors of sums beside operands, as kWideVectors of so many rows
//   wide_of, floats_of, plus    a vector rounded to whole numbers; back; sums, which may wrap
//   total_of(x)         the sum of all lanes
//   put_wide(row, inputs, i, x)     W wide numbers from i on, into a row of so many (2 B each)
//   put_weights(row, x)             those of a tile, in the order of value_step
//   value_step(t)       where the products take kWideInputs tokens from t on
//   add_wide(...)       adds to sums; see there
//
// A codec of what is stored is a struct with
//
//   kInWord, kWords     as in codes.h
//   kOffset             what is added to codes for the products
//   kOrder              which of eight elements the products take first, second, ...
//   kDims               elements of values that are expanded together
//   keys(words, to)     codes in order, as steps kKeyStep apart
//   values(rows, d, to) kDims elements of kWideInputs rows, from element d on
//   natural(x)          in order again: sums of the columns of 32 elements, from vectors so many
#pragma once

#include <algorithm>

#include "layout.h"
#include "prefetch.h"
#include "simd.h"

namespace kept::KEPT_NS {

constexpr float kMostWide = 32639;

// How large those may be of which products with so many codes are summed up.
constexpr float most_wide(std::int64_t inputs) {
    return inputs <= 512 ? kMostWide : (kMostWide - 1) / 2;
}

// What the products fetch of a later tile on their way, so much every kFetchSteps steps, of which
// they are a multiple: a request after the other, since the nearest cache waits for no more than a
// dozen.
constexpr std::int64_t kFetchSteps = 4;

struct LaterTile {
    const std::byte *p = nullptr, *end = nullptr;
    std::int64_t each = 0;  // whole lines

    LaterTile() = default;
    LaterTile(const std::byte* from, std::int64_t bytes, std::int64_t steps)
        : p(from),
          end(from + bytes),
          each(round_up(bytes * kFetchSteps / std::max(steps, kFetchSteps), 64)) {}
    KEPT_INLINE void fetch() {
        if (p >= end) return;
        for (std::int64_t i = 0; i < each; i += 64) prefetch_outer(p + i);
        p += each;
    }
    KEPT_INLINE void fetch_line() {
        if (p >= end) return;
        prefetch_outer(p);
        p += 64;
    }
};

}  // namespace kept::KEPT_NS

#if defined(__AVX512F__)
#include "wide_avx512.h"
#elif defined(__AVX2__)
#include "wide_avx2.h"
#else
#include "wide_portable.h"
#endif
