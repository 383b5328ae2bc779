// Kernels over rows that hold several streams side by side (AltUp), and over columns of rows.
#pragma once

#include <algorithm>
#include <cmath>

#include "finish.h"
#include "rows.h"
#include "simd.h"
#include "stream_args.h"

namespace kept::KEPT_NS {

inline void put_columns(const ColumnsArgs& args, std::int64_t first_row, std::int64_t last_row) {
    for (std::int64_t row = first_row; row < last_row; ++row) {
        const float* x = args.x + row * args.x_stride;
        const float* there =
            args.add ? static_cast<const float*>(args.out.data) + row * args.out.stride : nullptr;
        std::int64_t i = 0;
        for (; i + W <= args.width; i += W) {
            vf y = load(x + i);
            if (args.weight) y = mul(y, load(args.weight + i));
            put_act(args.out, row, i, there ? add(load(there + i), y) : y);
        }
        for (; i < args.width; ++i) {
            const float y = args.weight ? x[i] * args.weight[i] : x[i];
            put_one(args.out, row, i, there ? there[i] + y : y);
        }
        for (; i < args.padded; ++i) put_one(args.out, row, i, 0.0f);
    }
}

inline float mean_square(const float* x, std::int64_t width) {
    return row_sum(width, Squares{x, 0.0f}) / static_cast<float>(width);
}

inline void match(const MatchArgs& args, std::int64_t first_row, std::int64_t last_row) {
    for (std::int64_t row = first_row; row < last_row; ++row) {
        const float* x = args.x + row * args.x_stride;
        float* out = args.out + row * args.out_stride;
        const float target = std::sqrt(mean_square(args.like + row * args.like_stride, args.width));
        const float found = std::sqrt(std::max(mean_square(x, args.width), args.least));
        std::int64_t i = 0;
        for (; i + W <= args.width; i += W) {
            const vf y = div(mul(load(x + i), set1(target)), set1(found));
            store(out + i, args.add ? add(load(out + i), y) : y);
        }
        for (; i < args.width; ++i) {
            const float y = x[i] * target / found;
            out[i] = args.add ? out[i] + y : y;
        }
    }
}

// The numbers of a row that `count` sums of its routes come to.
inline void mix_routes(const StreamsArgs& args, std::int64_t row, std::int64_t count, float* out) {
    float routed[kMaxStreams];
    for (std::int64_t k = 0; k < args.num_streams; ++k)
        routed[k] = std::tanh(args.routes[row * args.routes_stride + k]);
    for (std::int64_t i = 0; i < count; ++i) {
        float sum = 0;
        for (std::int64_t k = 0; k < args.num_streams; ++k)
            sum += args.weight[i * args.num_streams + k] * routed[k];
        out[i] = sum;
    }
}

inline void predict_streams(const StreamsArgs& args, std::int64_t first_row,
                            std::int64_t last_row) {
    const std::int64_t count = args.num_streams, width = args.width;
    float by[kMaxStreams * kMaxStreams];
    for (std::int64_t row = first_row; row < last_row; ++row) {
        float* x = args.x + row * args.x_stride;
        mix_routes(args, row, count * count, by);
        std::int64_t i = 0;
        for (; i + W <= width; i += W) {
            vf before[kMaxStreams];
            for (std::int64_t s = 0; s < count; ++s) before[s] = load(x + s * width + i);
            for (std::int64_t s = 0; s < count; ++s) {
                vf sum = zero();
                for (std::int64_t t = 0; t < count; ++t)
                    sum = fma(set1(by[s * count + t]), before[t], sum);
                store(x + s * width + i, add(sum, before[s]));
            }
        }
        for (; i < width; ++i) {
            float before[kMaxStreams];
            for (std::int64_t s = 0; s < count; ++s) before[s] = x[s * width + i];
            for (std::int64_t s = 0; s < count; ++s) {
                float sum = 0;
                for (std::int64_t t = 0; t < count; ++t) sum += by[s * count + t] * before[t];
                x[s * width + i] = sum + before[s];
            }
        }
    }
}

inline void correct_streams(const StreamsArgs& args, std::int64_t first_row,
                            std::int64_t last_row) {
    const std::int64_t count = args.num_streams, width = args.width;
    float by[kMaxStreams];
    for (std::int64_t row = first_row; row < last_row; ++row) {
        float* x = args.x + row * args.x_stride;
        const float* y = args.active + row * args.active_stride;
        mix_routes(args, row, count, by);
        for (std::int64_t s = 0; s < count; ++s) by[s] += 1.0f;
        std::int64_t i = 0;
        for (; i + W <= width; i += W) {
            const vf news = sub(load(y + i), load(x + args.index * width + i));
            for (std::int64_t s = 0; s < count; ++s) {
                float* at = x + s * width + i;
                store(at, add(mul(news, set1(by[s])), load(at)));
            }
        }
        for (; i < width; ++i) {
            const float news = y[i] - x[args.index * width + i];
            for (std::int64_t s = 0; s < count; ++s) x[s * width + i] += news * by[s];
        }
    }
}

// Gates of one row, less what few of them exceed; rows are padded to whole vectors.
inline void gate_sparsely(const SparseArgs& args, std::int64_t first_row, std::int64_t last_row) {
    const float count = static_cast<float>(args.width);
    for (std::int64_t row = first_row; row < last_row; ++row) {
        const float* gates = args.gates + row * args.gates_stride;
        const float* ups = args.ups + row * args.ups_stride;
        const float mean = row_sum(args.width, Plain{gates}) / count;
        const float square = row_sum(args.width, Squares{gates, mean}) / count;
        const float least = mean + std::sqrt(square) * args.deviations;
        std::int64_t i = 0;
        for (; i < args.width; i += W) {
            const vf above = max(zero(), sub(load(gates + i), set1(least)));
            put_act(args.out, row, i, mul(activate(args.activation, above), load(ups + i)));
        }
        for (i = args.width; i < args.out.stride; ++i) put_one(args.out, row, i, 0.0f);
    }
}

}  // namespace kept::KEPT_NS
