// linear() on matrix tiles, for bf16 and int8 weights; those of 4 bits go the way of
// linear_tile_grouped.h, and other formats that of linear.h.
//
// Every output element is one chain of dot() over its inputs in ascending order, 32 at a time,
// whether its row comes alone or among others: sums that leave a tile between two of them come back
// as they were. A row's numbers depend on no other row of a tile, so rows can be cut into tiles in
// any way.
#pragma once

#include <algorithm>

#include "linear_tile_few.h"
#include "linear_tile_grouped.h"

namespace kept::KEPT_NS {

template <class Tiles>
void linear_on_tiles(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                     float* scratch) {
    if (is_nibbles(args.weights->format))
        return grouped_on_tiles<Tiles>(args, first_panel, last_panel, scratch);
    if (args.weights->format != Format::bf16 && args.weights->format != Format::int8)
        return linear(args, first_panel, last_panel, scratch);
    if (args.rows == 0 || first_panel == last_panel) return;
    TileShapes<Tiles> shapes;
    if (args.rows <= kTileRows) {
        shapes.use(args.rows, args.rows, kTileRows);
        FewLinear<Tiles>(args, scratch).run(first_panel, last_panel);
        return;
    }
    const std::int64_t parts = (args.rows + kTileRowsAtOnce - 1) / kTileRowsAtOnce;
    for (std::int64_t i = 0; i < parts; ++i) {
        const std::int64_t first = args.rows * i / parts;
        TileParts<Tiles> part(args, first, args.rows * (i + 1) / parts - first, first_panel,
                              last_panel, scratch);
        const std::int64_t lower = part.block_rows() - kTileRows;
        shapes.use(kTileRows, lower, lower);
        part.run();
    }
    settle_stores();
}

}  // namespace kept::KEPT_NS
