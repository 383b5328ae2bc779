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
//   line(row, d, out)  4 W codes of a row, from element d on (of whole numbers)
//
// load_transposed<kWords>(rows, at, out) reads the words from byte `at` on of W rows: in out[i]
// word i of every row.
//
// Of floats a word is one of them, as fp32 whatever it is stored in.
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

namespace kept::KEPT_NS {

struct Fp32Code {
    static constexpr int kInWord = 1, kWords = W;

    KEPT_INLINE static void widen(vb words, vf out[kInWord]) {
        out[0] = reinterpret_cast<vf>(words);
    }
    static vf read(const std::byte* row, std::int64_t d) {
        return load(reinterpret_cast<const float*>(row) + d);
    }
};

struct Fp16Code : Fp32Code {
    static vf read(const std::byte* row, std::int64_t d) {
        return load_fp16(reinterpret_cast<const std::uint16_t*>(row) + d);
    }
};

// The words of W rows from element d on, as load_transposed() has them.
template <class Code>
KEPT_INLINE void load_words(const std::byte* const* rows, std::int64_t d, vb* out) {
    if constexpr (Code::kInWord == 1) {
        KEPT_UNROLL_ALL
        for (int i = 0; i < W; ++i) out[i] = reinterpret_cast<vb>(Code::read(rows[i], d));
        transpose(out);
    } else {
        load_transposed<Code::kWords>(rows, d / Code::kInWord * 4, out);
    }
}

}  // namespace kept::KEPT_NS
