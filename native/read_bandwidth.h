#pragma once

#include <cstddef>

#include "timed_rounds.h"

namespace kept {

// Bytes per second at which `num_threads` threads together read a buffer of `size_bytes`, each its
// own part, over `num_runs` runs. The buffer must be much larger than the last-level cache to say
// something of memory. Throws std::bad_alloc, std::system_error.
Rate read_bandwidth(int num_threads, std::size_t size_bytes, int num_runs);

}  // namespace kept
