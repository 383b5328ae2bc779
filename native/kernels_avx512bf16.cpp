#define KEPT_NS avx512bf16
#define KEPT_CODES_NS avx512vnni
#define KEPT_FLOATS_NS avx512
#include "kernels_table.h"
