// Matrices to codes and scales, shared by the pool's threads; src/kept/ops/quantize.py is the
// specification of the numbers.
#pragma once

#include "kernels.h"

namespace kept {

// Quantizes all rows. Returns where the first number that is not finite lies, row * num_in +
// column, or -1; codes and scales are then of no use.
std::int64_t quantize(const Kernels& kernels, const QuantizeArgs& args);

}  // namespace kept
