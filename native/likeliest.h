// The likeliest token of a row, under what a repetition penalty and a grammar make of it.
#pragma once

#include <cstdint>

namespace kept {

// What is asked of a row (size). seen (size) are tokens whose scores are divided by `penalty`, or
// multiplied where they are below 0; null: there are none. words: bit t % 32 of word t / 32 says
// whether token t is allowed, and what lies past `num_words` is not; null: all are.
struct LikeliestArgs {
    const float* row;
    std::int64_t size;
    const bool* seen;
    float penalty;
    const std::uint32_t* words;
    std::int64_t num_words;
};

// The first token of the highest score, which is no NaN; -1 where that is not finite, or no token
// is allowed.
std::int64_t likeliest_of_row(const LikeliestArgs& args);

}  // namespace kept
