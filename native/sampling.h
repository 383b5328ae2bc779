// What drawing tokens takes of whole rows, and the random numbers of many rows at once.
#pragma once

#include <cstdint>
#include <vector>

namespace kept {

constexpr std::int64_t kWeightChunk = 256;  // tokens that share a sum of weights

// scores (size), their largest over the temperature (the peak), and the sums of their weights
// (chunks of kWeightChunk). No score is NaN or above the peak.
struct WeighArgs {
    const float* scores;
    std::int64_t size;
    float peak, temperature;
    std::int64_t* sums;
};

// Weighs many rows on the threads of the pool. Throws as the pool does.
void weigh_rows(const std::vector<WeighArgs>& rows);

// The first 64 bits of the generator Philox4x64-10 with a key of one word, and a counter of
// `position` in its second word (Salmon et al., 2011), as numpy counts: the first word comes to 1.
std::uint64_t random_bits(std::uint64_t seed, std::uint64_t position);

}  // namespace kept
