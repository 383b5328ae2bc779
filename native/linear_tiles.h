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

// Gives the calling thread's tiles the shapes that a block's rows need, and frees them in the end,
// which spares the system saving them.
template <class Tiles>
class TileShapes {
  public:
    TileShapes() = default;
    TileShapes(const TileShapes&) = delete;
    TileShapes& operator=(const TileShapes&) = delete;
    ~TileShapes() {
        if (rows_ > 0) Tiles::release();
    }
    void use(std::int64_t rows) {
        if (rows == rows_) return;
        rows_ = rows;
        const auto upper = static_cast<std::uint8_t>(std::min<std::int64_t>(rows, kTileRows));
        const auto lower = static_cast<std::uint8_t>(rows - upper);
        TileConfig config;
        std::fill_n(config.row_bytes, kNumTiles, std::uint16_t{kTileRowBytes});
        std::fill_n(config.rows, kNumTiles, std::uint8_t{kTileRows});
        config.rows[0] = config.rows[1] = config.rows[4] = upper;
        config.rows[2] = config.rows[3] = lower > 0 ? lower : upper;
        if (lower > 0) config.rows[5] = lower;
        Tiles::configure(config);
    }

  private:
    std::int64_t rows_ = 0;
};

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
        shapes.use(args.rows);
        FewLinear<Tiles>(args, scratch).run(first_panel, last_panel);
        return;
    }
    const std::int64_t parts = (args.rows + kTileRowsAtOnce - 1) / kTileRowsAtOnce;
    for (std::int64_t i = 0; i < parts; ++i) {
        const std::int64_t first = args.rows * i / parts;
        TileParts<Tiles> part(args, first, args.rows * (i + 1) / parts - first, first_panel,
                              last_panel, scratch);
        shapes.use(part.block_rows());
        part.run();
    }
    settle_stores();
}

}  // namespace kept::KEPT_NS
