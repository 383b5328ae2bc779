// linear() where activations are int8 codes: weights of whole numbers, one row and many.
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

template <class Read, GroupScales kScales>
struct RunCodeTile {
    const CodeTileArgs& t;
    template <int kRows>
    void run() const {
        code_tile<Read, kScales, kRows>(t);
    }
};

// Calls f<Read, kScales>() as codes of a format are read, which is one of whole numbers.
template <class F>
void with_code_format(Format format, const F& f) {
    switch (format) {
        case Format::int8:
            return f.template operator()<ReadInt8Quads, GroupScales::none>();
        case Format::q8_0:
            return f.template operator()<ReadInt8Quads, GroupScales::fp16>();
        case Format::int4:
            return f.template operator()<ReadLevelQuads<Int4Quads>, GroupScales::bf16>();
        case Format::q4_0:
            return f.template operator()<ReadLevelQuads<NibbleQuads>, GroupScales::fp16>();
        case Format::fp32:
        case Format::bf16:
        case Format::mxfp4:
            break;
    }
}

// A block over one stretch of a panel's inputs, in as few and as even turns as registers allow. The
// first keeps its Quads for the others, which fetch what comes next, so that memory is never idle.
template <class Read, GroupScales kScales>
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
            with_rows<kCodeRows>(rows, RunCodeTile<KeepQuads<Read>, kScales>{t});
            t.b = t.kept;
            t.ahead_stride = bytes / (num_turns - 1) / (t.num_inputs / 4);
        } else {
            t.ahead = next + bytes * (turn - 1) / (num_turns - 1);
            with_rows<kCodeRows>(rows, RunCodeTile<ReadQuads, kScales>{t});
        }
    }
}

// kept: room for the Quads of a slice, aligned to a cache line.
template <class Read, GroupScales kScales>
void code_sums(const LinearArgs& args, std::int64_t panel, CodeBlock block, float* sums,
               std::byte* kept) {
    const Weights& w = *args.weights;
    const std::int64_t inputs = w.padded_in();
    const std::byte* data = w.data + panel * w.bytes_per_panel();
    CodeTileArgs t{
        data,
        args.codes,
        block.first,
        0,
        inputs,
        sums,
        false,
        data + codes_ahead(),
        kStepBytes,
        is_grouped(w.format) ? w.group_scales + panel * w.num_groups() * kPanel : nullptr,
        kept};
    if (block.rows <= kCodeRows) {
        with_rows<kCodeRows>(static_cast<int>(block.rows), RunCodeTile<Read, kScales>{t});
        return;
    }
    for (std::int64_t k = 0; k < inputs; k += kCodeSlice) {
        t.first_input = k;
        t.num_inputs = std::min(inputs - k, kCodeSlice);
        t.resume = k > 0;
        t.b = data + k / step_inputs(w.format) * kStepBytes;
        t.ahead = t.b + codes_ahead();
        code_turns<Read, kScales>(t, block);
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
            with_code_format(args.weights->format, [&]<class Read, GroupScales kScales>() {
                code_sums<Read, kScales>(args, panel, block, sums, kept);
            });
            for (std::int64_t row = 0; row < block.rows; ++row)
                finish_row(args, panel, block.first + row, sums + row * kPanel);
        }
    }
    settle_stores();
}

}  // namespace kept::KEPT_NS
