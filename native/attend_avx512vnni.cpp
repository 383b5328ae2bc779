#define KEPT_NS avx512vnni
#include "attention.h"

namespace kept::avx512vnni {

void attend_codes(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    attend(args, unit, scratch);
}

}  // namespace kept::avx512vnni
