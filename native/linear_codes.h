// linear() where activations are int8 codes: int8 and int4 weights, one row and many.
#pragma once

#include <algorithm>

#include "code_tile.h"
#include "finish.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kCodesAhead = 8192;  // bytes of weights prefetched ahead of a few rows
constexpr std::int64_t kCodeSlice = 512;    // inputs whose Quads are made for a turn of many rows
static_assert(kCodeSlice % kCodeGroup == 0 && kCodeGroup % kGroup == 0, "whole groups");
static_assert(kCodeSlice * kPanel * kQuadBytes / (4 * W) <= 2 * kSliceInputs * kPanel,
              "in scratch");

template <class Read, bool kScaled>
struct RunCodeTile {
    const CodeTileArgs& t;
    template <int kRows>
    void run() const {
        code_tile<Read, kScaled, kRows>(t);
    }
};

// Makes the Quads of a stretch of inputs.
template <class Read>
void make_quads(const std::byte* p, std::int64_t num_inputs, std::byte* out) {
    for (std::int64_t k = 0; k < num_inputs; k += 4 * Read::kUnits, p += Read::kStep)
        for (int v = 0; v < NV; ++v) {
            const typename Read::Codes codes(p + v * (Read::kStep / NV));
            KEPT_UNROLL_ALL
            for (int u = 0; u < Read::kUnits; ++u)
                store_quads(out + ((k / 4 + u) * NV + v) * kQuadBytes, codes.unit(u));
        }
}

// All rows over one stretch of a panel's inputs, in as few and as even turns as registers allow.
template <bool kScaled>
void code_turns(CodeTileArgs t, std::int64_t rows, std::int64_t ahead_bytes) {
    const std::int64_t num_turns = (rows + kMaxRows - 1) / kMaxRows;
    const std::int64_t num_steps = t.num_inputs / 4;
    const std::byte* const ahead = t.ahead;
    float* const c = t.c;
    // Each turn fetches its share of what comes next, so that memory is never idle.
    t.ahead_stride = ahead_bytes / num_turns / num_steps;
    for (std::int64_t turn = 0; turn < num_turns; ++turn) {
        const std::int64_t last = rows * (turn + 1) / num_turns;
        t.first_row = rows * turn / num_turns;
        t.c = c + t.first_row * kPanel;
        t.ahead = ahead + ahead_bytes * turn / num_turns;
        with_rows<kMaxRows>(static_cast<int>(last - t.first_row),
                            RunCodeTile<ReadQuads, kScaled>{t});
    }
}

// made: room for the Quads of a slice, aligned to a cache line.
template <class Read, bool kScaled>
void code_sums(const LinearArgs& args, std::int64_t panel, float* sums, std::byte* made) {
    const Weights& w = *args.weights;
    const std::int64_t inputs = w.padded_in();
    const std::byte* data = w.data + panel * w.bytes_per_panel();
    CodeTileArgs t{
        data,       args.codes,
        0,          0,
        inputs,     sums,
        false,      data + kCodesAhead,
        kStepBytes, kScaled ? w.group_scales + panel * w.num_groups() * kPanel : nullptr};
    if (args.rows <= kMaxRows) {
        with_rows<kMaxRows>(static_cast<int>(args.rows), RunCodeTile<Read, kScaled>{t});
        return;
    }
    t.b = made;
    for (std::int64_t k = 0; k < inputs; k += kCodeSlice) {
        t.first_input = k;
        t.num_inputs = std::min(inputs - k, kCodeSlice);
        t.resume = k > 0;
        const std::byte* b = data + k / step_inputs(w.format) * kStepBytes;
        const std::int64_t bytes = panel_bytes(w.format, t.num_inputs);
        make_quads<Read>(b, t.num_inputs, made);
        t.ahead = b + bytes;
        code_turns<kScaled>(t, args.rows, bytes);
    }
}

void linear_codes(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                  float* scratch) {
    if (args.rows == 0) return;
    scratch += (-reinterpret_cast<std::uintptr_t>(scratch) & 63) / sizeof(float);
    auto* made = reinterpret_cast<std::byte*>(scratch);
    float* sums = scratch + kSliceInputs * kPanel / 2;
    for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
        if (args.codes.for_int4)
            code_sums<ReadInt4Quads, true>(args, panel, sums, made);
        else
            code_sums<ReadInt8Quads, false>(args, panel, sums, made);
        for (std::int64_t row = 0; row < args.rows; ++row)
            finish_row(args, panel, row, sums + row * kPanel);
    }
}

}  // namespace kept::KEPT_NS
