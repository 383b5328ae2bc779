#define KEPT_NS avx512vnni
#include "kernels_table.h"
