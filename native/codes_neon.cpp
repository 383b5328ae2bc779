#define KEPT_NS neon
#define KEPT_NEON
#include "encode_rows.h"
#include "linear_codes.h"
