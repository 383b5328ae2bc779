// Codes of stored keys and values as vectors, unscaled, which is exact. A codec is a struct with
//
//   kInWord            codes in 32 bits
//   kWords             words of a row that are transposed at once
//   widen(words, out)  the codes of each word: in out[i] code i of every word
//   read(row, d)       W codes of a row, from element d on
//
// and, where products take pairs of bf16, as pairs
//
//   pair(words, out)   the codes of each word: in out[i] codes 2 i and 2 i + 1 of every word
//   zip(a, b, d, out)  2 W codes of two rows, from element d on, each with its fellow
//
// load_transposed<kWords>(rows, at, out) reads the words from byte `at` on of W rows: in out[i]
// word i of every row.
#pragma once

#include "simd.h"

#if defined(__AVX512F__)
#include "codes_avx512.h"
#elif defined(__AVX2__)
#include "codes_avx2.h"
#elif defined(KEPT_NEON)
#include "codes_neon.h"
#else
#include "codes_portable.h"
#endif
