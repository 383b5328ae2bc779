#define KEPT_NS avx512vnni
#include "encode_rows.h"
#include "linear_codes.h"
