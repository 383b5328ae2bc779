// What kernels on matrix tiles have in common.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "simd.h"
#include "tiles.h"

namespace kept::KEPT_NS {

// Calls f<0>, f<1>, ...
template <int kCount, class F>
KEPT_INLINE void for_constants(const F& f) {
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (f.template operator()<i>(), ...);
    }(std::make_integer_sequence<int, kCount>{});
}

// How many rows the calling thread's tiles have, for as long as this lives. They are freed in the
// end, which spares the system saving them.
template <class Tiles>
class TileShapes {
  public:
    TileShapes() = default;
    TileShapes(const TileShapes&) = delete;
    TileShapes& operator=(const TileShapes&) = delete;
    ~TileShapes() {
        if (given_.upper > 0) Tiles::release();
    }
    // upper: of tiles 0, 1 and 4; lower: of 2 and 3; fifth: of 5. The others have all rows.
    void use(std::int64_t upper, std::int64_t lower, std::int64_t fifth) {
        const Rows rows{upper, lower, fifth};
        if (rows == given_) return;
        given_ = rows;
        TileConfig config;
        std::fill_n(config.row_bytes, kNumTiles, std::uint16_t{kTileRowBytes});
        std::fill_n(config.rows, kNumTiles, std::uint8_t{kTileRows});
        config.rows[0] = config.rows[1] = config.rows[4] = static_cast<std::uint8_t>(upper);
        config.rows[2] = config.rows[3] = static_cast<std::uint8_t>(lower);
        config.rows[5] = static_cast<std::uint8_t>(fifth);
        Tiles::configure(config);
    }

  private:
    struct Rows {
        std::int64_t upper = 0, lower = 0, fifth = 0;
        bool operator==(const Rows&) const = default;
    };
    Rows given_;
};

// All tiles with all their rows.
template <class Tiles>
struct WholeTiles : TileShapes<Tiles> {
    WholeTiles() { this->use(kTileRows, kTileRows, kTileRows); }
};

}  // namespace kept::KEPT_NS
