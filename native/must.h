// Throws for what a caller must not ask.
#pragma once

#include <stdexcept>

namespace kept {

inline void must(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace kept
