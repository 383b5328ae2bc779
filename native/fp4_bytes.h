// The levels of mxfp4 as whole numbers.
#pragma once

#include "layout.h"

namespace kept {

// Twice the levels as int8, and then with kWeightOffset added, as kInt4Bytes has its own.
extern const std::uint8_t kFp4Bytes[2 * kNumInt4Levels];

}  // namespace kept
