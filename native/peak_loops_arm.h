// What the loops over NEON's instructions have in common.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "peak_loops.h"

namespace kept {

// Latency 4 times up to four units.
constexpr int kSums = 16;

// Instruction::add adds to a sum the products of an operand with itself.
template <class Instruction>
double run_sums(std::int64_t iterations) {
    const auto a = Instruction::operand();
    typename Instruction::Sum sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = typename Instruction::Sum{};
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = Instruction::add(sums[i], a);
    double total = 0;  // of doubles: integer sums may overflow
    for (const auto& sum : sums)
        for (int lane = 0; lane < 4; ++lane) total += static_cast<double>(sum[lane]);
    return total;
}

// Each runs on CPUs that have its instruction only.
double run_bfmmla(std::int64_t iterations);
double run_smmla(std::int64_t iterations);
double run_sdot(std::int64_t iterations);

}  // namespace kept
