#define KEPT_NS avx2
#include "linear_fixed.h"
