// One rounding for a product and a sum, also where an instruction set has two.
#pragma once

#include <cmath>

#include "simd.h"

namespace kept::KEPT_NS {

// a * b + c, rounded once, on every instruction set.
KEPT_INLINE vf fused(vf a, vf b, vf c) {
#if defined(__FMA__) || defined(KEPT_NEON)
    return fma(a, b, c);
#else
    float x[W], y[W], z[W];
    store(x, a), store(y, b), store(z, c);
    for (int i = 0; i < W; ++i) z[i] = std::fma(x[i], y[i], z[i]);
    return load(z);
#endif
}

}  // namespace kept::KEPT_NS
