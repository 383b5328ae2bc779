#define KEPT_NS amx
#include "linear_tiles.h"
#include "tiles_amx.h"
#define KEPT_LINEAR linear_on_tiles<kept::KEPT_NS::AmxTiles>
#define KEPT_CODES_NS avx512vnni
#include "kernels_table.h"
