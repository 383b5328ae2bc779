#define KEPT_NS amx_emulated
#include "linear_tiles.h"
#include "tiles_emulated.h"
#define KEPT_LINEAR linear_on_tiles<kept::KEPT_NS::EmulatedTiles>
#define KEPT_CODES_NS portable
#include "kernels_table.h"
