// What happens to a row before all its heads attend one latent (PlaceLatentArgs).
#pragma once

#include "place.h"

namespace kept::KEPT_NS {

inline void place_latent(const PlaceLatentArgs& args, std::int64_t first_unit,
                         std::int64_t last_unit) {
    const PlaceArgs& to = args.to;
    const AttentionShape& shape = to.shape;
    const std::int64_t dim = shape.head_dim, latent = shape.value_dim, turning = dim - latent;
    const auto copy = [](const float* from, std::int64_t count, float* x) {
        std::memcpy(x, from, 4 * static_cast<std::size_t>(count));
    };
    alignas(64) float x[kMaxHeadDim], turned[kMaxHeadDim];
    for (std::int64_t unit = first_unit; unit < last_unit; ++unit) {
        const std::int64_t row = unit / (shape.heads + 1), head = unit % (shape.heads + 1);
        const bool is_query = head < shape.heads;
        if (is_query) {
            copy(args.absorbed + row * args.absorbed_stride + head * latent, latent, x);
            copy(args.turning + row * args.turning_stride + args.begin + head * args.apart, turning,
                 turned);
        } else {
            const float* const from = args.compressed + row * args.compressed_stride;
            copy(from, latent, x);
            copy(from + latent, turning, turned);
            norm_head(to, args.norm, latent, x);
        }
        // Apart, as vectors of what is rotated begin at a line.
        if (to.cos) rotate_head(to, row, turned);
        copy(turned, turning, x + latent);
        if (turns_keys(to.keys)) turn_head(x, dim);
        if (is_query)
            put_query(to, row, head, x);
        else
            encode(to.keys, entry_of(to, row, 0), x, dim);
    }
}

}  // namespace kept::KEPT_NS
