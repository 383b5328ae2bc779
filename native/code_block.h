// How many rows of codes are cut into blocks, and weights into slices.
#pragma once

#include <algorithm>

#include "code_tile.h"
#include "kernels.h"

namespace kept::KEPT_NS {

// Inputs whose Quads are made for many rows, and bytes of four inputs of a panel there.
constexpr std::int64_t kCodeSlice = W == 16 ? 1024 : 512;
#if defined(KEPT_FLIPS)
constexpr std::int64_t kKeptBytes = NV * (2 * kQuadBytes + kQuadBytes / 8);
#else
constexpr std::int64_t kKeptBytes = NV * kQuadBytes;
#endif
constexpr std::int64_t kCodeBlockBytes = 1 << 19;  // of rows that stay in the second cache
constexpr std::int64_t kLeastBlock = 96;           // rows
static_assert(kCodeSlice % kCodeGroup == 0 && kCodeGroup == kGroup, "whole groups");
static_assert(kCodeSlice / 4 * kKeptBytes <= 2 * kSliceInputs * kPanel, "in scratch");

// Rows of activations that are multiplied with all panels before the next are.
struct CodeBlock {
    std::int64_t first, rows;
};

// Even blocks, so that the last is not left with a few rows and all of the weights.
inline std::int64_t num_code_blocks(const CodeRows& codes, std::int64_t rows) {
    const std::int64_t most = std::max<std::int64_t>(kCodeBlockBytes / codes.stride(), kLeastBlock);
    return (rows + most - 1) / most;
}

}  // namespace kept::KEPT_NS
