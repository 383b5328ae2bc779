#define KEPT_NS avx512bf16
#include "kernels_table.h"
