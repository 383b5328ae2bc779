// Kernels over single rows: embedding, norms, and reading packed weights back.
#pragma once

#include "kernels.h"
#include "linear.h"

namespace kept::KEPT_NS {

inline float stored_weight(const Weights& w, std::int64_t place, std::int64_t k) {
    const std::int64_t panel = place / kPanel, column = place % kPanel;
    const std::byte* step =
        w.data + panel * w.bytes_per_panel() + k / step_inputs(w.format) * kStepBytes;
    switch (w.format) {
        case Format::fp32:
            return reinterpret_cast<const float*>(step)[column];
        case Format::bf16:
            return bf16_to_float(reinterpret_cast<const std::uint16_t*>(step)[2 * column + k % 2]);
        case Format::int8: {
            const std::int64_t at = column / 4 * 16 + k % 4 / 2 * 8 + column % 4 * 2 + k % 2;
            return static_cast<float>(reinterpret_cast<const std::int8_t*>(step)[at]) *
                   w.channel_scales[place];
        }
        case Format::q8_0: {
            const std::int64_t at = column / 4 * 16 + k % 4 / 2 * 8 + column % 4 * 2 + k % 2;
            const std::int64_t group = panel * w.num_groups() + k / kGroup;
            return static_cast<float>(reinterpret_cast<const std::int8_t*>(step)[at]) *
                   fp16_to_float(w.group_scales[group * kPanel + column]);
        }
        case Format::int4:
        case Format::mxfp4:
        case Format::q4_0: {
            const std::uint16_t codes =
                reinterpret_cast<const std::uint16_t*>(step)[2 * column + k % 2];
            const std::uint16_t scale =
                w.group_scales[(panel * w.num_groups() + k / kGroup) * kPanel + column];
            const int code = codes >> k % 8 / 2 * 4 & 15;
            if (w.format == Format::q4_0)
                return static_cast<float>(code - 8) * fp16_to_float(scale);
            const std::uint16_t* levels = w.format == Format::int4 ? kInt4Levels : kFp4Levels;
            return bf16_to_float(levels[code]) * bf16_to_float(scale);
        }
    }
    return 0;
}

inline void unpack_row(const Weights& w, std::int64_t row, float* out) {
    const std::int64_t place = w.place(row);
    for (std::int64_t k = 0; k < w.num_in; ++k) out[k] = stored_weight(w, place, k);
}

inline void embed(const EmbedArgs& args, std::int64_t first_row, std::int64_t last_row) {
    const std::int64_t width = args.table->num_in;
    for (std::int64_t row = first_row; row < last_row; ++row) {
        float* out = args.out + row * args.out_stride;
        // Others than the table has rows for come this far only where they have its first.
        const std::int64_t token = args.tokens[row] < args.table->num_out ? args.tokens[row] : 0;
        unpack_row(*args.table, token, out);
        if (args.scale != 1)
            for (std::int64_t i = 0; i < width; ++i) out[i] *= args.scale;
        if (args.position_table) {
            const float* position = args.position_table + args.positions[row] * width;
            for (std::int64_t i = 0; i < width; ++i) out[i] += position[i];
        }
    }
}

// Sums over a row with W running sums, then the rest one by one: an order fixed by the width alone.
template <class F>
float row_sum(std::int64_t width, const F& term) {
    vf sums = zero();
    std::int64_t i = 0;
    for (; i + W <= width; i += W) sums = add(sums, term.lanes(i));
    float sum = reduce_add(sums);
    for (; i < width; ++i) sum += term.one(i);
    return sum;
}

struct Plain {
    const float* x;
    vf lanes(std::int64_t i) const { return load(x + i); }
    float one(std::int64_t i) const { return x[i]; }
};

struct Squares {
    const float* x;
    float mean;
    vf lanes(std::int64_t i) const {
        const vf d = sub(load(x + i), set1(mean));
        return mul(d, d);
    }
    float one(std::int64_t i) const { return (x[i] - mean) * (x[i] - mean); }
};

inline void put_one(const ActRows& to, std::int64_t row, std::int64_t column, float x) {
    const std::int64_t at = row * to.stride + column;
    if (to.is_bf16)
        static_cast<std::uint16_t*>(to.data)[at] = float_to_bf16(x);
    else
        static_cast<float*>(to.data)[at] = x;
}

inline void norm(const NormArgs& args, std::int64_t first_row, std::int64_t last_row) {
    const std::int64_t width = args.width;
    const float count = static_cast<float>(width);
    for (std::int64_t row = first_row; row < last_row; ++row) {
        const float* x = args.x + (args.rows ? args.rows[row] : row) * args.x_stride;
        const float mean = args.bias ? row_sum(width, Plain{x}) / count : 0.0f;
        const float square = row_sum(width, Squares{x, mean}) / count;
        const float inverse = 1.0f / std::sqrt(square + args.eps);
        const float* there =
            args.add ? static_cast<const float*>(args.out.data) + row * args.out.stride : nullptr;
        std::int64_t i = 0;
        for (; i + W <= width; i += W) {
            const vf d = mul(sub(load(x + i), set1(mean)), set1(inverse));
            const vf bias = args.bias ? load(args.bias + i) : zero();
            const vf y = fma(d, load(args.weight + i), bias);
            put_act(args.out, row, i, args.add ? add(load(there + i), y) : y);
        }
        for (; i < width; ++i) {
            const float d = (x[i] - mean) * inverse;
            const float y = d * args.weight[i] + (args.bias ? args.bias[i] : 0.0f);
            put_one(args.out, row, i, args.add ? there[i] + y : y);
        }
        for (; i < args.padded; ++i) put_one(args.out, row, i, 0.0f);
    }
}

inline void round(const RoundArgs& args, std::int64_t first_row, std::int64_t last_row) {
    for (std::int64_t row = first_row; row < last_row; ++row) {
        const float* x = args.x + row * args.x_stride;
        const float* by = args.by ? args.by + row * args.by_stride : nullptr;
        std::int64_t i = 0;
        for (; i + W <= args.width; i += W) {
            const vf scaled = mul(load(x + i), set1(args.factor));
            put_act(args.out, row, i, by ? mul(scaled, load(by + i)) : scaled);
        }
        for (; i < args.width; ++i) {
            const float scaled = x[i] * args.factor;
            put_one(args.out, row, i, by ? scaled * by[i] : scaled);
        }
        for (; i < args.out.stride; ++i) put_one(args.out, row, i, 0.0f);
    }
}

}  // namespace kept::KEPT_NS
