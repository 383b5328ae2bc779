// How threads share the work of an attention.
#pragma once

#include <vector>

#include "step.h"

namespace kept {

// The units of an attention, shared by layers of the same shape and layout.
struct AttendPlan {
    // One head of rows whose partial results are to be joined.
    struct Merge {
        std::int64_t rows, kv_head;
    };

    AttentionShape shape;
    std::int64_t layout;
    std::vector<AttendRows> rows;
    std::vector<AttendUnit> units;
    std::vector<Merge> merges;
    std::int64_t floats = 0;  // of partial results

    bool fits(const AttentionShape& other, std::int64_t other_layout) const;
};

AttendPlan make_attend_plan(const Step& step, const AttentionShape& shape, std::int64_t layout,
                            std::int64_t threads);

}  // namespace kept
