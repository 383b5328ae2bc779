#define KEPT_NS portable
#include "kernels_table.h"
