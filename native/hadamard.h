// Heads turned by Hadamard matrices, whose rows are orthonormal, in blocks of the powers of two in
// D, largest first. src/kept/ops/hadamard.py is the definition, to the bit: every set of
// instructions adds in the same order.
#pragma once

#include <cmath>

#include "kernels.h"
#include "simd.h"

namespace kept::KEPT_NS {

template <int kApart>
inline void add_and_subtract(float* x, std::int64_t size) {
    for (std::int64_t first = 0; first < size; first += 2 * kApart)
        for (int i = 0; i < kApart; ++i) {
            const float a = x[first + i], b = x[first + kApart + i];
            x[first + i] = a + b;
            x[first + kApart + i] = a - b;
        }
}

inline void turn_block(float* x, std::int64_t size) {
    if (size >= 2) add_and_subtract<1>(x, size);
    if (size >= 4) add_and_subtract<2>(x, size);
    if (size >= 8) add_and_subtract<4>(x, size);
    if (size >= 16) add_and_subtract<8>(x, size);
    for (std::int64_t apart = 16; apart < size; apart *= 2)
        for (std::int64_t first = 0; first < size; first += 2 * apart)
            for (std::int64_t i = first; i < first + apart; i += W) {
                const vf a = load(x + i), b = load(x + apart + i);
                store(x + i, add(a, b));
                store(x + apart + i, sub(a, b));
            }
    const auto factor = static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
    for (std::int64_t i = 0; i < size; ++i) x[i] *= factor;
}

inline void turn_head(float* x, std::int64_t head_dim) {
    std::int64_t left = head_dim;
    for (std::int64_t size = kMaxHeadDim; left > 0; size /= 2) {
        if (left < size) continue;
        turn_block(x + head_dim - left, size);
        left -= size;
    }
}

}  // namespace kept::KEPT_NS
