// What kernels on matrix tiles have in common.
#pragma once

#include <algorithm>
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

// All tiles with all their rows, for as long as this lives. They are freed in the end, which spares
// the system saving them.
template <class Tiles>
class WholeTiles {
  public:
    WholeTiles() {
        TileConfig config;
        std::fill_n(config.row_bytes, kNumTiles, std::uint16_t{kTileRowBytes});
        std::fill_n(config.rows, kNumTiles, std::uint8_t{kTileRows});
        Tiles::configure(config);
    }
    WholeTiles(const WholeTiles&) = delete;
    WholeTiles& operator=(const WholeTiles&) = delete;
    ~WholeTiles() { Tiles::release(); }
};

}  // namespace kept::KEPT_NS
