// What the threads of one run of a program have in common.
#pragma once

#include <atomic>

#include "program.h"

namespace kept {

struct Program::Run {
    const Step& step;
    std::int64_t first, last;
    int threads;
    Program* program;
    std::atomic<std::int64_t> next{0};  // unit to take, of those that threads do not share evenly
};

}  // namespace kept
