#define KEPT_NS avx512vnni
#include "linear_fixed.h"
