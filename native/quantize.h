// Matrices, and keys and values, to codes and scales, shared by the pool's threads;
// src/kept/ops/quantize.py and codecs.py are the specification of the numbers.
#pragma once

#include "kernels.h"

namespace kept {

// Quantizes all rows. Returns where the first number that is not finite lies, row * num_in +
// column, or -1; codes and scales are then of no use.
std::int64_t quantize(const Kernels& kernels, const QuantizeArgs& args);

// The same of keys or values that come from torch, on its threads where they are many.
void encode_heads(const Kernels& kernels, const EncodeArgs& args, std::int64_t num_heads);

}  // namespace kept
