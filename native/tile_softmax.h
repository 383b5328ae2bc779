// One tile's part of the online softmax: scores of its keys, their weights, the weighed sum of its
// values, and the state (peak, sum, out) that goes from tile to tile and from chunk to chunk.
#pragma once

#include <algorithm>
#include <limits>

#include "lanes_math.h"
#include "linear.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kHalves = kTile / kPanel;

// Everything one unit works on, cut from a thread's scratch. Q queries: rows times heads of a
// group.
struct AttendScratch {
    std::int64_t padded;                    // D rounded up to 32
    std::int64_t key_groups, value_groups;  // scales a token and head that are still to multiply
    std::byte *queries, *keys, *values, *weights;
    float *scores, *part;              // (halves, Q, 32)
    float *key_scales, *value_scales;  // (groups of each, 64)
    float* hidden;                     // (64) 0, or -1 where a query must not see
    float *peak, *sum, *out;           // (Q), (Q), (padded / 32, Q, 32) of this chunk
    float *all_peak, *all_sum, *all_out;
    float* correction;  // (Q)

    AttendScratch(float* at, std::int64_t queries_count, std::int64_t head_dim,
                  std::int64_t scales_of_key, std::int64_t scales_of_value)
        : padded(round_up(head_dim, 32)), key_groups(scales_of_key), value_groups(scales_of_value) {
        const auto take = [&](std::int64_t floats) {
            float* taken = at;
            at += round_up(floats, 16);
            return taken;
        };
        const std::int64_t q = queries_count;
        queries = reinterpret_cast<std::byte*>(take(q * padded));
        keys = reinterpret_cast<std::byte*>(take(padded * kTile));
        values = reinterpret_cast<std::byte*>(take(padded * kTile));
        weights =
            reinterpret_cast<std::byte*>(take(q * kTile * std::max<std::int64_t>(value_groups, 1)));
        scores = take(q * kTile);
        part = take(q * kTile);
        key_scales = take(key_groups * kTile);
        value_scales = take(value_groups * kTile);
        hidden = take(kTile);
        peak = take(q), sum = take(q), out = take(q * padded);
        all_peak = take(q), all_sum = take(q), all_out = take(q * padded);
        correction = take(q);
    }
};

inline bool uses_floats(const AttendArgs& args) {
    return !args.queries.is_bf16;
}

// Scores of one query over a tile become its weights; the state moves on to the new peak. bias:
// what they take on, or null.
inline void soften(const AttendArgs& args, const AttendScratch& s, std::int64_t q,
                   std::int64_t num_queries, const float* hidden, const float* bias) {
    const AttentionShape& shape = args.shape;
    constexpr int kVectors = kTile / W;
    const bool floats = uses_floats(args);
    vf x[kVectors];
    vf top = set1(-std::numeric_limits<float>::infinity());
    for (int i = 0; i < kVectors; ++i) {
        const std::int64_t t = i * W;
        x[i] = load(s.scores + (t / kPanel * num_queries + q) * kPanel + t % kPanel);
        if (s.key_groups == 1) x[i] = mul(x[i], load(s.key_scales + t));
        x[i] = mul(x[i], set1(shape.scale));
        x[i] = soft_cap(x[i], shape.softcap);
        if (bias) x[i] = add(x[i], load(bias + t));
        // Not a sum: what is hidden may be infinite or NaN.
        if (hidden)
            x[i] = where_less(load(hidden + t), zero(),
                              set1(-std::numeric_limits<float>::infinity()), x[i]);
        top = max(top, x[i]);
    }
    const float before = s.peak[q], peak = std::max(before, reduce_max(top));
    // Nothing seen so far: any finite peak gives weights of zero.
    const float base = peak == -std::numeric_limits<float>::infinity() ? 0.0f : peak;
    s.correction[q] = exp_of(before - base);
    s.peak[q] = peak;
    vf total = zero();
    for (int i = 0; i < kVectors; ++i) {
        const std::int64_t t = i * W;
        vf p = exp(sub(x[i], set1(base)));
        if (floats) {
            store(reinterpret_cast<float*>(s.weights) + q * kTile + t, p);
            total = add(total, p);
            continue;
        }
        auto* to = reinterpret_cast<std::uint16_t*>(s.weights);
        if (s.value_groups == 0) {
            // The sum is that of the rounded weights, so that rounding does not shift the mean.
            store_bf16(to + q * kTile + t, p);
            total = add(total, load_bf16(to + q * kTile + t));
            continue;
        }
        total = add(total, p);
        for (std::int64_t g = 0; g < s.value_groups; ++g) {
            vf scaled = mul(p, load(s.value_scales + g * kTile + t));
            if (hidden) scaled = where_less(load(hidden + t), zero(), zero(), scaled);
            store_bf16(to + (g * num_queries + q) * kTile + t, scaled);
        }
    }
    s.sum[q] = s.sum[q] * s.correction[q] + reduce_add(total);
}

// Panels of a tile: c (count, rows, 32) = or += a (rows, inputs) b (count, inputs, 32). `between`:
// from one panel to the next, `ahead` of it left out.
template <class Act>
struct Panels {
    std::int64_t count;
    TileArgs<Act> first;
    Between between;
    std::int64_t c_between, rows;
};

template <class Read>
struct RunPair {
    const Panels<typename Read::Act>& panels;
    const TileArgs<typename Read::Act>& t;
    Between between;
    template <int kRows>
    void run() const {
        tile<Read, kRows, 2>(t, between, panels.c_between);
    }
};

// All of them, two at a time where registers allow. Prefetches `ahead_bytes` on the way.
template <class Read>
void multiply(const Panels<typename Read::Act>& panels, std::int64_t ahead_bytes) {
    constexpr int kMaxPair = kMaxRows / 2;
    const std::int64_t share = ahead_bytes / panels.count;
    const std::int64_t num_steps = panels.first.num_inputs / Read::kUnitInputs;
    TileArgs<typename Read::Act> t = panels.first;
    for (std::int64_t i = 0; i < panels.count;) {
        t.a = panels.first.a + i * panels.between.a;
        t.b = panels.first.b + i * panels.between.b;
        t.c = panels.first.c + i * panels.c_between;
        t.ahead = panels.first.ahead + i * share;
        if (panels.rows <= kMaxPair && i + 2 <= panels.count) {
            t.ahead_stride = share / num_steps;
            const Between between{panels.between.b, panels.between.a, share};
            with_rows<kMaxPair>(static_cast<int>(panels.rows), RunPair<Read>{panels, t, between});
            i += 2;
        } else {
            turns<Read, false>(t, panels.rows, share);
            i += 1;
        }
    }
}

// Scores of queries [first, last) over a tile's keys.
template <class Read>
void score_tile(const AttendScratch& s, std::int64_t num_queries, std::int64_t first,
                std::int64_t last, const std::byte* ahead, std::int64_t ahead_bytes) {
    using Act = typename Read::Act;
    const auto* queries = reinterpret_cast<const Act*>(s.queries) + first * s.padded;
    const std::int64_t half = num_queries * kPanel, begin = first * kPanel;
    const std::int64_t count = (last - first) * kPanel;
    const Between between{s.padded / Read::kUnitInputs * kStepBytes, 0, 0};
    const std::int64_t groups = std::max<std::int64_t>(s.key_groups, 1);
    const std::int64_t inputs = s.padded / groups;
    for (std::int64_t g = 0; g < groups; ++g) {
        const TileArgs<Act> args{s.keys + g * inputs / Read::kUnitInputs * kStepBytes,
                                 queries + g * inputs,
                                 s.padded,
                                 inputs,
                                 (groups > 1 ? s.part : s.scores) + begin,
                                 false,
                                 ahead + g * ahead_bytes / groups,
                                 0,
                                 nullptr};
        multiply<Read>({kHalves, args, between, half, last - first}, ahead_bytes / groups);
        if (groups == 1) return;
        for (std::int64_t t = 0; t < kTile; t += W) {
            const vf scale = load(s.key_scales + g * kTile + t);
            const std::int64_t at = t / kPanel * half + begin + t % kPanel;
            for (std::int64_t i = at; i < at + count; i += kPanel) {
                const vf x = load(s.part + i);
                store(s.scores + i, g == 0 ? mul(x, scale) : fma(x, scale, load(s.scores + i)));
            }
        }
    }
}

// Adds a tile's values to the sums of queries [first, last).
template <class Read>
void weigh_tile(const AttendScratch& s, std::int64_t num_queries, std::int64_t first,
                std::int64_t last, const std::byte* ahead, std::int64_t ahead_bytes) {
    using Act = typename Read::Act;
    const std::int64_t panels = s.padded / kPanel, panel_floats = num_queries * kPanel;
    float* out = s.out + first * kPanel;
    for (std::int64_t q = first; q < last; ++q) {
        if (s.correction[q] == 1.0f) continue;
        const vf correction = set1(s.correction[q]);
        for (std::int64_t d = 0; d < s.padded; d += W) {
            float* at = s.out + d / kPanel * panel_floats + q * kPanel + d % kPanel;
            store(at, mul(load(at), correction));
        }
    }
    const auto* weights = reinterpret_cast<const Act*>(s.weights) + first * kTile;
    const Between between{kTile / Read::kUnitInputs * kStepBytes,
                          s.value_groups > 1 ? num_queries * kTile : 0, 0};
    const TileArgs<Act> whole{s.values, weights, kTile, kTile, out, true, ahead, 0, nullptr};
    multiply<Read>({panels, whole, between, panel_floats, last - first}, ahead_bytes);
}

inline void begin_state(float* peak, float* sum, float* out, std::int64_t num_queries,
                        std::int64_t padded) {
    std::fill_n(peak, num_queries, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, num_queries, 0.0f);
    std::fill_n(out, num_queries * padded, 0.0f);
}

// Adds a chunk's state to that of the chunks before it.
inline void merge_state(float* peak, float* sum, float* out, const float* next_peak,
                        const float* next_sum, const float* next_out, std::int64_t num_queries,
                        std::int64_t padded) {
    for (std::int64_t q = 0; q < num_queries; ++q) {
        const float top = std::max(peak[q], next_peak[q]);
        if (top == -std::numeric_limits<float>::infinity()) continue;
        const float a = exp_of(peak[q] - top), b = exp_of(next_peak[q] - top);
        peak[q] = top;
        sum[q] = sum[q] * a + next_sum[q] * b;
        for (std::int64_t panel = 0; panel < padded / kPanel; ++panel)
            for (int v = 0; v < NV; ++v) {
                const std::int64_t at = (panel * num_queries + q) * kPanel + v * W;
                store(out + at, fma(load(next_out + at), set1(b), mul(load(out + at), set1(a))));
            }
    }
}

}  // namespace kept::KEPT_NS
