// The sum over the experts of a row.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "simd.h"

namespace kept::KEPT_NS {

// Units are parts of rows.
inline void combine(const CombineArgs& args, std::int64_t first_unit, std::int64_t last_unit) {
    for (std::int64_t unit = first_unit; unit < last_unit; ++unit) {
        const std::int64_t row = unit / args.num_parts(),
                           begin = unit % args.num_parts() * kCombined;
        const std::int64_t end = std::min(begin + kCombined, args.width);
        const std::int32_t* const slots = args.routes->slots(row);
        const float* const weights = args.routes->weights(row);
        float* const out = args.out + row * args.out_stride;
        // Rows are padded to whole vectors.
        for (std::int64_t i = begin; i < end; i += W) {
            vf sum = mul(set1(weights[0]), load(args.x + slots[0] * args.x_stride + i));
            for (std::int64_t k = 1; k < args.top_k; ++k)
                sum = fma(set1(weights[k]), load(args.x + slots[k] * args.x_stride + i), sum);
            if (args.shared)
                sum = fma(set1(weights[args.top_k]),
                          load(args.shared + row * args.shared_stride + i), sum);
            store(out + i, args.add ? add(load(out + i), sum) : sum);
        }
    }
}

}  // namespace kept::KEPT_NS
