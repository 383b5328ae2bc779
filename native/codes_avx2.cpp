#define KEPT_NS avx2
#include "encode_rows.h"
#include "linear_codes.h"
