#define KEPT_NS neondotprod
#define KEPT_NEON
#include "linear_codes.h"
