// The token of a row out of its few likeliest, where these decide what the whole row would.
#pragma once

#include <cstdint>
#include <vector>

namespace kept {

// What is asked of a row, whose few likeliest tokens come with their logits (count), in any order,
// none of them twice. edge: the logit that no other token of the row exceeds, -inf: there is none.
struct FewArgs {
    const float* logits;
    const std::int64_t* tokens;
    std::int64_t count;
    float edge, temperature;
    bool draws;
    std::int64_t top_k;  // 0: off; not looked at unless the row draws, as all below
    double top_p;        // 1: off
    double log_min_p;    // the logarithm of min_p, -inf: off
    std::int64_t total;  // of the whole row's weights, where top_p goes by that
    double uniform;      // in [0, 1)
};

// The token, or -1 where the whole row has to be read. sampling/few.py is the specification, and
// finds the same.
std::int64_t choose_from_few(const FewArgs& args);

// Finds the k largest of a row (size): the largest first, NaN before any number, and of equals the
// lower token. k is from 1 to size.
void largest_of_row(const float* row, std::int64_t size, std::int64_t k, float* values,
                    std::int64_t* tokens);

// The same of those tokens of a row that a mask allows: bit t % 32 of word t / 32 is that of token
// t, and what lies past its `num_words` is not allowed. Where they are fewer than k, the rest are
// -inf, with the token 0.
void largest_allowed_of_row(const float* row, std::int64_t size, const std::uint32_t* words,
                            std::int64_t num_words, std::int64_t k, float* values,
                            std::int64_t* tokens);

}  // namespace kept
