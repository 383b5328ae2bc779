#define KEPT_NS avx512bf16
#define KEPT_CODES_NS avx512vnni
#include "kernels_table.h"
