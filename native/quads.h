// Products of whole numbers, four inputs of a column at a time, on the instruction set that the
// including file is compiled for.
//
//   vi          W int32, a column each
//   Fours       four activations, for every column
//   Quads       four weights of W columns
//   dot(s, w, a)      adds the four products to each column's sum; exact
//   start(p)          what sums begin with, see code_rows.h
//   Int8Quads, LevelQuads   Quads of packed weights (layout.h): unit(u) for each 4 inputs of a
//   step;
//                           of LevelQuads four bits say which of a table's levels
//   load_quads, store_quads of kQuadBytes: Quads made once for many rows
//   store_codes(p, x)       W floats that hold whole numbers, as kRounding leaves them, to int8
//   order_for_int4(p)       puts 32 codes into the order that LevelQuads take them in
#pragma once

#include "layout.h"
#include "simd.h"

namespace kept::KEPT_NS {

// A float that is added to a number of at most 2^22: the sum is rounded to a whole number, which
// its lowest bits hold.
constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23

}  // namespace kept::KEPT_NS

#if defined(__AVX512F__)
#include "quads_avx512.h"
#elif defined(__AVX2__)
#include "quads_avx2.h"
#elif defined(KEPT_NEON)
#include "quads_neon.h"
#else
#include "quads_portable.h"
#endif

namespace kept::KEPT_NS {

using Int4Quads = LevelQuads<kInt4Bytes>;
using NibbleQuads = LevelQuads<kNibbleBytes>;

}  // namespace kept::KEPT_NS
