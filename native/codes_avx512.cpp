#define KEPT_NS avx512
#include "encode_rows.h"
#include "linear_codes.h"
