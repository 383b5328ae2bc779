// Vectors of the instruction set that the including file is compiled for: W floats, or 2 W bf16 as
// W pairs. KEPT_NS names the set and its namespace; every kernel is compiled once for each.
//
//   vf   W floats
//   vb   W pairs of bf16, the element with the lower index in the low half of each 32 bits
//
// dp(acc, a, b) adds to each lane of acc the two products of its pair. Its rounding is the set's
// own and the same for every caller, which is what the reproducibility of all kernels rests on.
#pragma once

#ifndef KEPT_NS
#error "KEPT_NS must name the instruction set"
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "floats.h"

#if defined(__clang__)
#define KEPT_UNROLL_ALL _Pragma("clang loop unroll(full)")
#else
#define KEPT_UNROLL_ALL _Pragma("GCC unroll 64")
#endif

// Where arrays of vectors go in and out, a call would force them through memory.
#define KEPT_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#elif defined(KEPT_NEON)  // and not in plain C++ for Arm
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif

namespace kept::KEPT_NS {

// fma(a, b, acc), for sums that stay where they are. By hand: GCC 12 multiplies in place of an
// operand as well, in loops that it unrolls, and then copies sums back and forth.
KEPT_INLINE vf add_product(vf acc, vf a, vf b) {
#if defined(__FMA__)
    asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
#else
    return fma(a, b, acc);
#endif
}

}  // namespace kept::KEPT_NS
