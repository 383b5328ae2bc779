#define KEPT_NS avx2vnni
#include "linear_fixed.h"
