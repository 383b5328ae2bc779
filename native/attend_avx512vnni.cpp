#define KEPT_NS avx512vnni
#define KEPT_FLOATS_NS avx512
#include "attention.h"

namespace kept::avx512vnni {

void attend_codes(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    attend(args, unit, scratch);
}

}  // namespace kept::avx512vnni
