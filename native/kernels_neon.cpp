#define KEPT_NS neon
#define KEPT_NEON
#include "kernels_table.h"
