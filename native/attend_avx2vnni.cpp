#define KEPT_NS avx2vnni
#define KEPT_FLOATS_NS avx2
#include "attention.h"

namespace kept::avx2vnni {

void attend_codes(const AttendArgs& args, const AttendUnit& unit, float* scratch) {
    attend(args, unit, scratch);
}

}  // namespace kept::avx2vnni
