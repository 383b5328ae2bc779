#define KEPT_NS avx2vnni
#include "encode_rows.h"
#include "linear_codes.h"
