#define KEPT_NS amx
#include "linear_tiles.h"
#include "tiles_amx.h"

namespace kept::amx {

void linear_by_tiles(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                     float* scratch) {
    linear_on_tiles<AmxTiles>(args, first_panel, last_panel, scratch);
}

}  // namespace kept::amx
