// y = x W^T + b, panel after panel, and what becomes of y.
#pragma once

#include "finish.h"
#include "kernels.h"
#include "tile.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kAhead = 8192;  // bytes of weights prefetched ahead of a few rows

template <class Read, bool kGrouped>
struct RunTile {
    const TileArgs<typename Read::Act>& t;
    template <int kRows>
    void run() const {
        if constexpr (kGrouped)
            grouped_tile<Read, kRows>(t);
        else
            tile<Read, kRows>(t);
    }
};

// All rows over one stretch of a panel's inputs, in as few and as even turns as registers allow.
template <class Read, bool kGrouped>
void turns(TileArgs<typename Read::Act> t, std::int64_t rows, std::int64_t ahead_bytes) {
    constexpr int kMax = Read::kFused;
    const std::int64_t num_turns = (rows + kMax - 1) / kMax;
    const std::int64_t num_steps = t.num_inputs / (Read::kUnits * Read::kUnitInputs);
    const std::byte* const ahead = t.ahead;
    float* const c = t.c;
    const auto* const a = t.a;
    for (std::int64_t turn = 0; turn < num_turns; ++turn) {
        const std::int64_t first = rows * turn / num_turns, last = rows * (turn + 1) / num_turns;
        t.a = a + first * t.a_stride;
        t.c = c + first * kPanel;
        // Each turn fetches its share of what comes next, so that memory is never idle.
        t.ahead = ahead + ahead_bytes * turn / num_turns;
        t.ahead_stride = ahead_bytes / num_turns / num_steps;
        with_rows<kMax>(static_cast<int>(last - first), RunTile<Read, kGrouped>{t});
    }
}

// Writes a stretch of int8 or int4 codes as bf16 codes, which are exact.
template <class Read>
void expand(const std::byte* p, std::int64_t num_inputs, std::byte* out) {
    constexpr int kInputs = Read::kUnits * Read::kUnitInputs;
    for (std::int64_t k = 0; k < num_inputs; k += kInputs, p += kStepBytes)
        for (int v = 0; v < NV; ++v) {
            const typename Read::Codes codes(p + v * W * 4);
            KEPT_UNROLL_ALL
            for (int u = 0; u < Read::kUnits; ++u)
                store_pairs(out + (k / 2 + u) * kStepBytes + v * W * 4, codes.unit(u));
        }
}

template <class Read, bool kGrouped>
void panel_sums(const LinearArgs& args, std::int64_t panel, float* sums, std::byte* expanded) {
    using Act = typename Read::Act;
    constexpr int kMax = Read::kFused;
    constexpr bool kExpands = Read::kUnits > 1;
    const Weights& w = *args.weights;
    const std::int64_t inputs = w.padded_in();
    const std::byte* data = w.data + panel * w.bytes_per_panel();
    const std::uint16_t* scales =
        kGrouped ? w.group_scales + panel * w.num_groups() * kPanel : nullptr;
    const Act* a = static_cast<const Act*>(args.in.data);
    if (args.rows <= kMax) {
        TileArgs<Act> t{data,          a,          args.in.stride, inputs, sums, false,
                        data + kAhead, kStepBytes, scales};
        with_rows<kMax>(static_cast<int>(args.rows), RunTile<Read, kGrouped>{t});
        return;
    }
    for (std::int64_t k = 0; k < inputs; k += kSliceInputs) {
        const std::int64_t count = inputs - k < kSliceInputs ? inputs - k : kSliceInputs;
        const std::byte* b = data + k / step_inputs(w.format) * kStepBytes;
        const std::int64_t bytes = panel_bytes(w.format, count);
        TileArgs<Act> t{b, a + k, args.in.stride, count, sums, k > 0, b + bytes, 0, scales};
        if constexpr (kGrouped) t.scales += k / kGroup * kPanel;
        if constexpr (kExpands) {
            expand<Read>(b, count, expanded);
            t.b = expanded;
            turns<ReadBf16, kGrouped>(t, args.rows, bytes);
        } else {
            turns<Read, kGrouped>(t, args.rows, bytes);
        }
    }
}

inline void linear(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                   float* scratch) {
    if (args.rows == 0) return;
    auto* expanded = reinterpret_cast<std::byte*>(scratch);
    float* sums = scratch + kSliceInputs * kPanel / 2;
    for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
        switch (args.weights->format) {
            case Format::fp32:
                panel_sums<ReadFp32, false>(args, panel, sums, nullptr);
                break;
            case Format::bf16:
                panel_sums<ReadBf16, false>(args, panel, sums, nullptr);
                break;
            case Format::int8:
                panel_sums<ReadInt8, false>(args, panel, sums, expanded);
                break;
            case Format::int4:
                panel_sums<ReadInt4, true>(args, panel, sums, expanded);
                break;
        }
        for (std::int64_t row = 0; row < args.rows; ++row)
            finish_row(args, panel, row, sums + row * kPanel);
    }
}

}  // namespace kept::KEPT_NS
