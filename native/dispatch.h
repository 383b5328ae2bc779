#pragma once

#include <vector>

#include "kernels.h"

namespace kept {

// The kernels this CPU can run, best first; the portable ones are always there.
std::vector<const Kernels*> available_kernels();
// Kernels that stand in for instructions this CPU may lack, many times slower: for tests.
std::vector<const Kernels*> emulated_kernels();

}  // namespace kept
