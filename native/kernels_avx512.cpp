#define KEPT_NS avx512
#include "kernels_table.h"
