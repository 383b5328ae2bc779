// Weights of 4 bits as whole numbers of 16, times activations of as many.
//
//   Two                   two activations, for every column
//   LevelWords(p, table)  word(i): of W columns the weights of inputs 2 i and 2 i + 1 of a step,
//                         kWeightOffset added; by the second half of a table (layout.h)
//   Word                  such weights; load_word, store_word: made once for many rows
//   dot(s, w, a)          adds the two products to each column's sum; exact
#pragma once

#include "code_rows.h"
#include "quads.h"

namespace kept::KEPT_NS {

constexpr int kWordVectorBytes = 4 * W;

struct Two : Fours {
    explicit Two(const std::int16_t* p) : Fours(reinterpret_cast<const std::int8_t*>(p)) {}
};

}  // namespace kept::KEPT_NS

#if defined(__AVX512F__)
#include "level_words_avx512.h"
#elif defined(__AVX2__)
#include "level_words_avx2.h"
#endif
