// How threads share the work of an attention.
#pragma once

#include <vector>

#include "step.h"

namespace kept {

// The units of an attention, shared by layers of the same shape and layout.
struct AttendPlan {
    AttentionShape shape;
    std::int64_t layout;
    std::vector<AttendUnit> units, merges;
    std::int64_t floats = 0;  // of partial results

    bool fits(const AttentionShape& other, std::int64_t other_layout) const;
};

AttendPlan make_attend_plan(const Step& step, const AttentionShape& shape, std::int64_t layout,
                            std::int64_t threads);

}  // namespace kept
