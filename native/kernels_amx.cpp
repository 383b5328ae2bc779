#define KEPT_NS amx
#define KEPT_FLOATS_NS avx512
#include "attend_matrix.h"
#include "linear_tiles.h"
#include "tiles_amx.h"

namespace kept::amx {

void linear_by_tiles(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                     float* scratch) {
    linear_on_tiles<AmxTiles>(args, first_panel, last_panel, scratch);
}

void attend_by_tiles(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    attend_on_tiles<AmxTiles>(args, unit, scratch);
}

}  // namespace kept::amx
