// What becomes of a panel's sums: bias and scales, and then the layer's epilogue.
#pragma once

#include "kernels.h"
#include "lanes_math.h"
#include "prefetch.h"
#include "simd.h"

namespace kept::KEPT_NS {

constexpr int NV = kPanel / W;  // vectors across a panel

inline vf activate(Activation kind, vf x) {
    switch (kind) {
        case Activation::silu:
            return mul(x, sigmoid(x));
        case Activation::gelu:
            return gelu(x);
        case Activation::gelu_tanh:
            return gelu_tanh(x);
        case Activation::relu:
            return max(zero(), x);        // in this order NaN stays NaN
        case Activation::clamped_swiglu:  // of a gate alone
        case Activation::none:
            break;
    }
    return x;
}

// x, or a bound that it lies beyond; NaN stays NaN.
inline vf at_most(vf x, float bound) {
    return sub(zero(), max(set1(-bound), sub(zero(), x)));
}

inline vf gate(Activation kind, vf x, vf up) {
    if (kind != Activation::clamped_swiglu) return mul(activate(kind, x), up);
    constexpr float kLimit = 7.0f, kAlpha = 1.702f;  // as gpt-oss was trained
    x = at_most(x, kLimit);
    up = max(set1(-kLimit), at_most(up, kLimit));
    return mul(add(up, set1(1.0f)), mul(x, sigmoid(mul(set1(kAlpha), x))));
}

inline void put_act(const ActRows& to, std::int64_t row, std::int64_t column, vf x) {
    const std::int64_t at = row * to.stride + column;
    if (to.is_bf16)
        store_bf16(static_cast<std::uint16_t*>(to.data) + at, x);
    else
        store(static_cast<float*>(to.data) + at, x);
}

// Rises with the logit, NaN above any number, and of equal logits (0 and -0 are) falls with the
// token.
inline std::uint64_t rank(float logit, std::int64_t token) {
    std::uint32_t key = 0xffffffffu;
    if (logit == logit) {
        const std::uint32_t bits = float_to_bits(logit == 0 ? 0.0f : logit);
        key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    }
    return static_cast<std::uint64_t>(key) << 32 | ~static_cast<std::uint32_t>(token);
}

// Tokens come to a thread in any order, so one that equals the floor may go before what set it.
inline void offer(TopRow& top, std::int64_t column, int count, vf y, const float* lanes) {
    if (!top.is_open && !any_not_less(y, set1(top.floor))) return;
    for (int i = 0; i < count; ++i) {
        if (!top.is_open && lanes[i] < top.floor) continue;
        top.ranks[top.count++] = rank(lanes[i], column + i);
        if (top.count == top.room) cut(top);
    }
}

// Logits of many rows are more than caches hold, and most of them nobody reads: to fetch what they
// overwrite would take longer than to write them.
inline bool writes_past_caches(const LinearArgs& args, const float* out) {
    return args.rows > kFewRows &&
           reinterpret_cast<std::uintptr_t>(out) % static_cast<std::uintptr_t>(W * 4) == 0;
}

// Fetches where finish_row() will write, or a line of each row.
inline void fetch_out(const LinearArgs& args, std::int64_t panel, std::int64_t row) {
    if (args.epilogue == Epilogue::logits && writes_past_caches(args, args.out)) return;
    const std::int64_t width = args.weights->panel_width(), column = panel * width;
    const bool is_act = args.epilogue == Epilogue::activate || args.epilogue == Epilogue::gate;
    const ActRows& act = args.act;
    const std::int64_t size = is_act && act.is_bf16 ? 2 : 4;
    const std::int64_t at = is_act ? row * act.stride + column : row * args.out_stride + column;
    const auto* p = static_cast<const std::byte*>(is_act ? act.data : args.out) + at * size;
    for (std::int64_t i = 0; i < width * size; i += 64) prefetch_outer(p + i);
}

inline void put_logits(const LinearArgs& args, std::int64_t row, std::int64_t column, vf y) {
    Best& best = args.best[row];
    const std::int64_t left = args.weights->num_out - column;
    float lanes[W];
    store(lanes, y);
    const int count = left < W ? static_cast<int>(left) : W;
    float* out = args.out + row * args.out_stride + column;
    if (count == W && writes_past_caches(args, out))
        store_past_caches(out, y);
    else if (count == W)
        store(out, y);
    else
        for (int i = 0; i < count; ++i) out[i] = lanes[i];
    if (args.top) offer(args.top[row], column, count, y, lanes);
    if (!any_not_less(y, set1(best.value))) return;
    for (int i = 0; i < count; ++i)
        best = likelier(best, {lanes[i], static_cast<std::int32_t>(column + i)});
}

inline void finish_row(const LinearArgs& args, std::int64_t panel, std::int64_t row,
                       const float* sums) {
    const Weights& w = *args.weights;
    const float* const added = args.addend.of(row, panel * kPanel);
    vf y[NV];
    for (int v = 0; v < NV; ++v) {
        const std::int64_t at = panel * kPanel + v * W;
        y[v] = load(sums + v * W);
        const vf bias = w.bias ? load(w.bias + at) : zero();
        if (w.format != Format::int8)
            y[v] = add(y[v], bias);
        else if (args.codes.data)  // rounded twice, as every instruction set can
            y[v] = add(mul(y[v], load(w.channel_scales + at)), bias);
        else
            y[v] = fma(y[v], load(w.channel_scales + at), bias);
        if (added) y[v] = add(y[v], load(added + v * W));
        if (args.scale != 1) y[v] = mul(y[v], set1(args.scale));
    }
    const std::int64_t column = panel * w.panel_width();
    switch (args.epilogue) {
        case Epilogue::store:
            for (int v = 0; v < NV; ++v)
                store(args.out + row * args.out_stride + column + v * W, y[v]);
            break;
        case Epilogue::add:
            for (int v = 0; v < NV; ++v) {
                float* out = args.out + row * args.out_stride + column + v * W;
                store(out, add(load(out), y[v]));
            }
            break;
        case Epilogue::activate:
            for (int v = 0; v < NV; ++v)
                put_act(args.act, row, column + v * W, activate(args.activation, y[v]));
            break;
        case Epilogue::gate:
            for (int v = 0; v < NV / 2; ++v)
                put_act(args.act, row, column + v * W, gate(args.activation, y[v], y[v + NV / 2]));
            break;
        case Epilogue::logits:
            for (int v = 0; v < NV; ++v)
                if (column + v * W < w.num_out)
                    put_logits(args, row, column + v * W, soft_cap(y[v], args.softcap));
            break;
    }
}

}  // namespace kept::KEPT_NS
