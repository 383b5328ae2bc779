#pragma once

#include <vector>

#include "kernels.h"

namespace kept {

// The kernels this CPU can run, best first; the portable ones are always there.
std::vector<const Kernels*> available_kernels();

}  // namespace kept
