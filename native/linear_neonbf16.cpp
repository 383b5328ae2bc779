#define KEPT_NS neonbf16
#define KEPT_NEON
#include "linear.h"
#include "linear_code_pairs.h"

namespace kept::neonbf16 {

void linear_of_bf16(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                    float* scratch) {
    linear(args, first_panel, last_panel, scratch);
}

void linear_codes_by_pairs(const LinearArgs& args, std::int64_t first_panel,
                           std::int64_t last_panel, float* scratch) {
    linear_on_pairs(args, first_panel, last_panel, scratch);
}

}  // namespace kept::neonbf16
