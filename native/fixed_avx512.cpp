#define KEPT_NS avx512
#include "linear_fixed.h"
