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
static_assert(kCodeSlice % kCodeGroup == 0 && kCodeGroup == kGroup, "whole groups");
static_assert(kCodeSlice / 4 * kKeptBytes <= 2 * kSliceInputs * kPanel, "in scratch");

// Rows of activations that are multiplied with all panels before the next are, in as few and as
// even turns as registers allow.
struct CodeBlock {
    std::int64_t first, rows;
    std::byte* words;  // of one turn behind the other's (code_words.h)
    std::int64_t num_groups;

    bool in_strips() const { return rows > kWideRows; }
    std::int64_t num_turns() const {
        const std::int64_t most = in_strips() ? kCodeTurnRows : kCodeRows;
        return (rows + most - 1) / most;
    }
    std::int64_t first_of(std::int64_t turn) const { return rows * turn / num_turns(); }
    std::int64_t rows_of(std::int64_t turn) const { return first_of(turn + 1) - first_of(turn); }
    // A turn's words from a group on.
    std::byte* words_of(std::int64_t turn, std::int64_t group) const {
        return words + (first_of(turn) * num_groups + rows_of(turn) * group) * kRowGroupBytes;
    }
    void make_words(const CodeRows& codes) const {
        for (std::int64_t turn = 0; turn < num_turns(); ++turn)
            make_code_words(codes, first + first_of(turn), rows_of(turn), words_of(turn, 0));
    }
};

// Even blocks, so that the last is not left with a few rows and all of the weights.
inline std::int64_t num_code_blocks(const CodeRows& codes, std::int64_t rows) {
    const std::int64_t most = code_block_rows(codes);
    return (rows + most - 1) / most;
}

}  // namespace kept::KEPT_NS
