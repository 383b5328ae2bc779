// The threads that torch computes with, borrowed for a job.
//
// Where torch's own operations surround a kernel, its threads still spin on their processors when
// the kernel begins: threads of our own would have to wait for them, and then they for ours.
#pragma once

#include "pool.h"

namespace kept {

// Finds the OpenMP library (GNU's) that is loaded from this path; false where it is not. Once is
// enough.
bool find_torch_team(const char* path);

// From now on there is none: a forked child has none of its parent's threads, and GNU's OpenMP
// would wait for those that it was not made to let go.
void forget_torch_team();

// Runs job(context, thread) on `num_threads` threads of torch and returns true when all are done;
// false, and runs nothing, where it does not give so many: within a parallel region of its own, or
// because nothing was found.
bool run_on_torch_team(int num_threads, Pool::Job job, void* context);

}  // namespace kept
