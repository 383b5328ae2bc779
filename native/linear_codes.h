// linear() where activations are int8 codes: int8 and int4 weights, one row and many.
#pragma once

#include <algorithm>

#include "code_block.h"
#include "code_tile.h"
#include "finish.h"

namespace kept::KEPT_NS {

// Bytes of weights that are prefetched ahead of a few rows.
inline std::int64_t codes_ahead() {
    return kPrefetchPastCaches ? 8192 : 1024;
}

template <class Read, bool kScaled>
struct RunCodeTile {
    const CodeTileArgs& t;
    template <int kRows>
    void run() const {
        code_tile<Read, kScaled, kRows>(t);
    }
};

// A block over one stretch of a panel's inputs, in as few and as even turns as registers allow. The
// first keeps its Quads for the others, which fetch what comes next, so that memory is never idle.
template <class Read, bool kScaled>
void code_turns(CodeTileArgs t, CodeBlock block) {
    const std::int64_t num_turns = (block.rows + kCodeRows - 1) / kCodeRows;
    const std::int64_t bytes = t.num_inputs / (4 * Read::kUnits) * Read::kStep;
    const std::byte* const next = t.b + bytes;
    float* const c = t.c;
    for (std::int64_t turn = 0; turn < num_turns; ++turn) {
        const std::int64_t first = block.rows * turn / num_turns;
        const int rows = static_cast<int>(block.rows * (turn + 1) / num_turns - first);
        t.first_row = block.first + first;
        t.c = c + first * kPanel;
        if (turn == 0) {
            with_rows<kCodeRows>(rows, RunCodeTile<KeepQuads<Read>, kScaled>{t});
            t.b = t.kept;
            t.ahead_stride = bytes / (num_turns - 1) / (t.num_inputs / 4);
        } else {
            t.ahead = next + bytes * (turn - 1) / (num_turns - 1);
            with_rows<kCodeRows>(rows, RunCodeTile<ReadQuads, kScaled>{t});
        }
    }
}

// kept: room for the Quads of a slice, aligned to a cache line.
template <class Read, bool kScaled>
void code_sums(const LinearArgs& args, std::int64_t panel, CodeBlock block, float* sums,
               std::byte* kept) {
    const Weights& w = *args.weights;
    const std::int64_t inputs = w.padded_in();
    const std::byte* data = w.data + panel * w.bytes_per_panel();
    CodeTileArgs t{
        data,        args.codes,
        block.first, 0,
        inputs,      sums,
        false,       data + codes_ahead(),
        kStepBytes,  kScaled ? w.group_scales + panel * w.num_groups() * kPanel : nullptr,
        kept};
    if (block.rows <= kCodeRows) {
        with_rows<kCodeRows>(static_cast<int>(block.rows), RunCodeTile<Read, kScaled>{t});
        return;
    }
    for (std::int64_t k = 0; k < inputs; k += kCodeSlice) {
        t.first_input = k;
        t.num_inputs = std::min(inputs - k, kCodeSlice);
        t.resume = k > 0;
        t.b = data + k / step_inputs(w.format) * kStepBytes;
        t.ahead = t.b + codes_ahead();
        code_turns<Read, kScaled>(t, block);
    }
}

void linear_codes(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                  float* scratch) {
    if (args.rows == 0) return;
    scratch += (-reinterpret_cast<std::uintptr_t>(scratch) & 63) / sizeof(float);
    auto* kept = reinterpret_cast<std::byte*>(scratch);
    float* sums = scratch + kSliceInputs * kPanel / 2;
    const std::int64_t num_blocks = num_code_blocks(args.codes, args.rows);
    for (std::int64_t i = 0; i < num_blocks; ++i) {
        const std::int64_t first = args.rows * i / num_blocks;
        const CodeBlock block{first, args.rows * (i + 1) / num_blocks - first};
        for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
            if (args.codes.for_int4)
                code_sums<ReadInt4Quads, true>(args, panel, block, sums, kept);
            else
                code_sums<ReadInt8Quads, false>(args, panel, block, sums, kept);
            for (std::int64_t row = 0; row < block.rows; ++row)
                finish_row(args, panel, block.first + row, sums + row * kPanel);
        }
    }
}

}  // namespace kept::KEPT_NS
