// How a linear layer on matrix tiles is cut, so that each cache holds what is read from it again.
//
//   rows      blocks as even as may be, of up to kTileRowsAtOnce rows at once
//   inputs    slices, whose weights of one panel the nearest cache holds for all blocks
//   panels    all inputs of one, then the next. Where the outer cache does not hold that many
//             inputs of the rows, stretches of inputs over groups of panels, whose sums it holds
#pragma once

#include <algorithm>
#include <cstdint>

#include "layout.h"

namespace kept {

constexpr std::int64_t kTileBlock = 32;                   // rows that matrix tiles take together
constexpr std::int64_t kGroupBlock = 15;                  // the same where groups are scaled
constexpr std::int64_t kTileRowsAtOnce = 512;             // that read weights together
constexpr std::int64_t kTileSlice = 640;                  // inputs of a slice at most
constexpr std::int64_t kTileRowBytesHeld = 1 << 20;       // of rows, in a cache of 2 MiB
constexpr std::int64_t kTileStretchBytes = 384 << 10;     // of rows beside a group's sums
constexpr std::int64_t kTileSumBytes = 1 << 20;           // of a group's sums
constexpr std::int64_t kBlockSums = kTileBlock * kPanel;  // of a panel
// Bytes beside a slice's codes where groups are scaled: of products and scales.
constexpr std::int64_t kGroupScratch = (4 * 16 * 16 + kTileSlice) * 4;

struct TileCut {
    std::int64_t blocks;   // of rows
    std::int64_t stretch;  // inputs
    std::int64_t slice;    // inputs
    std::int64_t group;    // panels

    // block: how many rows one has at most.
    TileCut(std::int64_t rows, std::int64_t inputs, std::int64_t panels, bool expands,
            std::int64_t block = kTileBlock) {
        blocks = (rows + block - 1) / block;
        const std::int64_t padded = blocks * block;
        const bool holds_all = padded * inputs * 2 <= kTileRowBytesHeld;
        const std::int64_t held =
            std::max<std::int64_t>(kTileStretchBytes / (padded * 2) / kGroup * kGroup, kGroup);
        stretch = holds_all ? inputs : even_part(inputs, held);
        slice = blocks == 1 && !expands ? stretch : even_part(stretch, kTileSlice);
        const std::int64_t most =
            holds_all ? 1 : std::max<std::int64_t>(kTileSumBytes / (padded * kPanel * 4), 1);
        const std::int64_t groups = (panels + most - 1) / most;
        group = (panels + groups - 1) / groups;
    }
};

// Floats of what TileCut says of up to so many rows.
constexpr std::int64_t tile_scratch(std::int64_t inputs, std::int64_t panels, std::int64_t rows,
                                    std::int64_t block = kTileBlock) {
    const std::int64_t padded = round_up(std::min(rows, kTileRowsAtOnce), block);
    const std::int64_t packed = std::min(padded * inputs * 2, kTileRowBytesHeld);
    const std::int64_t of_panel = padded * kPanel * 4;
    const std::int64_t sums = std::min(panels * of_panel, std::max(kTileSumBytes, of_panel));
    return (kTileSlice * kPanel * 2 + kGroupScratch + sums + of_panel + packed) / 4;
}

}  // namespace kept
