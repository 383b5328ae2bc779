#define KEPT_NS amx
#include "linear_tiles.h"
#include "tiles_amx.h"
#define KEPT_LINEAR linear_on_tiles<kept::KEPT_NS::AmxTiles>
#include "kernels_table.h"
