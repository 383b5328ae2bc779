#define KEPT_NS avx2
#include "kernels_table.h"
