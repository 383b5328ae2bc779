// finish_row() for several rows whose sums lie one behind the other: the same bits. What rows share
// is read once, and nothing between them branches, so that one row's products overlap the next
// one's.
#pragma once

#include "finish.h"

namespace kept::KEPT_NS {

// Calls put(row, y) with the NV vectors of each row.
template <class Put>
KEPT_INLINE void each_output(const LinearArgs& args, std::int64_t panel, std::int64_t first,
                             std::int64_t count, const float* sums, const Put& put) {
    const Weights& w = *args.weights;
    vf scales[NV], bias[NV];
    KEPT_UNROLL_ALL
    for (int v = 0; v < NV; ++v) {
        const std::int64_t at = panel * kPanel + v * W;
        // Times 1 changes no bit of sums that groups have scaled.
        scales[v] = w.format == Format::int8 ? load(w.channel_scales + at) : set1(1.0f);
        bias[v] = w.bias ? load(w.bias + at) : zero();
    }
    for (std::int64_t row = first; row < first + count; ++row, sums += kPanel) {
        vf y[NV];
        KEPT_UNROLL_ALL
        for (int v = 0; v < NV; ++v) y[v] = add(mul(load(sums + v * W), scales[v]), bias[v]);
        put(row, y);
    }
}

template <Activation kActivation>
void gate_outputs(const LinearArgs& args, std::int64_t panel, std::int64_t first,
                  std::int64_t count, const float* sums) {
    const std::int64_t column = panel * args.weights->panel_width();
    each_output(args, panel, first, count, sums,
                [&](std::int64_t row, const vf* y) __attribute__((always_inline)) {
                    KEPT_UNROLL_ALL
                    for (int v = 0; v < NV / 2; ++v)
                        put_act(args.act, row, column + v * W,
                                gate(kActivation, y[v], y[v + NV / 2]));
                });
}

template <bool kAdds>
void put_outputs(const LinearArgs& args, std::int64_t panel, std::int64_t first, std::int64_t count,
                 const float* sums) {
    float* const out = args.out + panel * kPanel;
    each_output(args, panel, first, count, sums,
                [&](std::int64_t row, const vf* y) __attribute__((always_inline)) {
                    float* to = out + row * args.out_stride;
                    KEPT_UNROLL_ALL
                    for (int v = 0; v < NV; ++v)
                        store(to + v * W, kAdds ? add(load(to + v * W), y[v]) : y[v]);
                });
}

// Rows [first, first + count), of sums (count, 32).
inline void finish_rows(const LinearArgs& args, std::int64_t panel, std::int64_t first,
                        std::int64_t count, const float* sums) {
    const bool rounds_once = args.weights->format == Format::int8 && !args.codes.data;
    if (!args.addend.data && args.scale == 1 && !rounds_once) {
        if (args.epilogue == Epilogue::store)
            return put_outputs<false>(args, panel, first, count, sums);
        if (args.epilogue == Epilogue::add)
            return put_outputs<true>(args, panel, first, count, sums);
        if (args.epilogue == Epilogue::gate && args.activation == Activation::silu)
            return gate_outputs<Activation::silu>(args, panel, first, count, sums);
        if (args.epilogue == Epilogue::gate && args.activation == Activation::gelu_tanh)
            return gate_outputs<Activation::gelu_tanh>(args, panel, first, count, sums);
    }
    for (std::int64_t i = 0; i < count; ++i) finish_row(args, panel, first + i, sums + i * kPanel);
}

// Fetches where finish_rows() will write two lines of each row: to fetch the half or the one of a
// gate takes longer than it saves.
inline void fetch_rows(const LinearArgs& args, std::int64_t panel, std::int64_t first,
                       std::int64_t count) {
    if (args.epilogue == Epilogue::gate) return;
    for (std::int64_t row = first; row < first + count; ++row) fetch_out(args, panel, row);
}

}  // namespace kept::KEPT_NS
