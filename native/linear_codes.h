// linear() where activations are int8 codes: weights of whole numbers, one row and many.
#pragma once

#include <algorithm>

#include "code_block.h"
#include "code_tile.h"
#include "finish_rows.h"

namespace kept::KEPT_NS {

// Bytes of weights that are prefetched ahead of a few rows.
inline std::int64_t codes_ahead() {
    return kPrefetchPastCaches ? 8192 : 1024;
}

template <class Read, GroupScales kScales, int kVectors>
struct RunCodeTile {
    const CodeTileArgs& t;
    template <int kRows>
    void run() const {
        code_tile<Read, kScales, kRows, kVectors>(t);
    }
};

// A turn of several.
template <class Read, GroupScales kScales, int kTurnRows, int kVectors>
void run_turn(const CodeTileArgs& t, std::int64_t rows) {
    with_rows<kTurnRows, (kTurnRows + 1) / 2>(static_cast<int>(rows),
                                              RunCodeTile<Read, kScales, kVectors>{t});
}

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

#if defined(KEPT_FLIPS)
// A stretch of a panel's inputs for ReadFlips, half a panel behind the other.
template <class Read>
void make_flips(const std::byte* b, std::int64_t num_inputs, std::byte* out) {
    constexpr int kSteps = kCodeGroup / (4 * Read::kUnits);
    for (int strip = 0; strip < kCodeStrips; ++strip) {
        const std::byte* p = b + strip * (Read::kStep / kCodeStrips);
        for (std::int64_t k = 0; k < num_inputs; k += kCodeGroup) {
            std::byte* const starts = out;
            out += ReadFlips::kStarts;
            vi taken[kCodeVectors] = {};
            for (int i = 0; i < kSteps; ++i, p += Read::kStep) {
                for (int v = 0; v < kCodeVectors; ++v) {
                    const typename Read::Codes codes(p + v * (Read::kStep / NV));
                    for (int u = 0; u < Read::kUnits; ++u) {
                        std::byte* const to = out + (u * kCodeVectors + v) * 2 * kQuadBytes;
                        taken[v] = store_flips(to, codes.unit(u), taken[v]);
                    }
                }
                out += Read::kUnits * ReadFlips::kStep;
            }
            for (int v = 0; v < kCodeVectors; ++v) write_quads(starts + v * kQuadBytes, taken[v]);
        }
    }
}

// A block over one stretch of a panel's inputs. All rows meet one half of it before the other.
template <class Read, GroupScales kScales>
void flip_turns(CodeTileArgs t, const CodeBlock& block, std::int64_t group) {
    const std::int64_t num_turns = block.num_turns();
    const std::int64_t steps = t.num_inputs / 4, bytes = steps / Read::kUnits * Read::kStep;
    const std::int64_t share = bytes / (kCodeStrips * num_turns);
    make_flips<Read>(t.b, t.num_inputs, t.kept);
    t.ahead = t.b + bytes;
    t.ahead_stride = share / steps;
    float* const c = t.c;
    for (int strip = 0; strip < kCodeStrips; ++strip) {
        t.b = t.kept + strip * (steps * kKeptBytes / kCodeStrips);
        for (std::int64_t turn = 0; turn < num_turns; ++turn, t.ahead += share) {
            t.a = block.words_of(turn, group);
            t.c = c + block.first_of(turn) * kPanel + strip * kCodeVectors * W;
            run_turn<ReadFlips, kScales, kCodeTurnRows, kCodeVectors>(t, block.rows_of(turn));
        }
        if (t.scales) t.scales += kCodeVectors * W;
    }
}
#endif

// A block over one stretch of a panel's inputs, strip after strip of its columns. The first turn
// of several keeps its Quads for the others. All of them fetch a share of what comes next, so that
// memory is never idle: fetched by some of them alone, it takes turns with the others.
template <class Read, GroupScales kScales, int kTurnRows, int kVectors>
void code_turns(CodeTileArgs t, const CodeBlock& block, std::int64_t group) {
    constexpr int kStrips = NV / kVectors;
    const std::int64_t num_turns = block.num_turns(), num_shares = kStrips * num_turns;
    const std::int64_t bytes = t.num_inputs / (4 * Read::kUnits) * Read::kStep;
    const std::byte *const b = t.b, *const next = t.b + bytes;
    float* const c = t.c;
    for (int strip = 0; strip < kStrips; ++strip) {
        for (std::int64_t turn = 0; turn < num_turns; ++turn) {
            const std::int64_t rows = block.rows_of(turn), share = strip * num_turns + turn;
            const std::int64_t steps = t.num_inputs / (turn == 0 ? 4 * Read::kUnits : 4);
            t.a = block.words_of(turn, group);
            t.b = turn == 0 ? b + strip * (Read::kStep / kStrips) : t.kept;
            t.c = c + block.first_of(turn) * kPanel + strip * kVectors * W;
            t.ahead = next + bytes * share / num_shares;
            t.ahead_stride = (bytes + num_shares * steps - 1) / (num_shares * steps);
            if (num_turns == 1)
                run_turn<ShareQuads<Read>, kScales, kTurnRows, kVectors>(t, rows);
            else if (turn == 0)
                run_turn<KeepQuads<Read>, kScales, kTurnRows, kVectors>(t, rows);
            else
                run_turn<ReadQuads<kVectors>, kScales, kTurnRows, kVectors>(t, rows);
        }
        if (t.scales) t.scales += kVectors * W;
    }
}

// The sums of a block for one panel, finished. kept: room for the Quads of a slice, aligned to a
// cache line.
template <class Read, GroupScales kScales>
void code_sums(const LinearArgs& args, std::int64_t panel, const CodeBlock& block, float* sums,
               std::byte* kept) {
    const Weights& w = *args.weights;
    const std::int64_t inputs = w.padded_in();
    const std::byte* data = w.data + panel * w.bytes_per_panel();
    const std::uint16_t* scales =
        is_grouped(w.format) ? w.group_scales + panel * w.num_groups() * kPanel : nullptr;
    CodeTileArgs t{data,       block.words, inputs, sums, false, data + codes_ahead(),
                   kStepBytes, scales,      kept};
    if (block.rows <= kCodeRows) {
        with_rows<kCodeRows>(static_cast<int>(block.rows), RunCodeTile<Read, kScales, NV>{t});
        finish_rows(args, panel, block.first, block.rows, sums);
        return;
    }
    const std::int64_t part = even_part(inputs, kCodeSlice);
    for (std::int64_t k = 0; k < inputs; k += part) {
        const std::int64_t group = k / kCodeGroup;
        t.num_inputs = std::min(inputs - k, part);
        t.resume = k > 0;
        t.b = data + k / step_inputs(w.format) * kStepBytes;
        if (scales) t.scales = scales + group * kPanel;
        if (!block.in_strips())
            code_turns<Read, kScales, kCodeRows, NV>(t, block, group);
        else
#if defined(KEPT_FLIPS)
            flip_turns<Read, kScales>(t, block, group);
#else
            code_turns<Read, kScales, kCodeTurnRows, kCodeVectors>(t, block, group);
#endif
    }
    finish_rows(args, panel, block.first, block.rows, sums);
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
        const std::int64_t rows = args.rows * (i + 1) / num_blocks - first;
        const CodeBlock block{first, rows, reinterpret_cast<std::byte*>(sums + rows * kPanel),
                              args.codes.num_groups()};
        if (num_blocks > 1 || !args.goes_on) block.make_words(args.codes);
        for (std::int64_t panel = first_panel; panel < last_panel; ++panel)
            with_code_format(args.weights->format, [&]<class Read, GroupScales kScales>() {
                code_sums<Read, kScales>(args, panel, block, sums, kept);
            });
    }
    settle_stores();
}

}  // namespace kept::KEPT_NS
