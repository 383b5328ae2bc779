#define KEPT_NS portable
#include "encode_rows.h"
#include "linear_codes.h"
