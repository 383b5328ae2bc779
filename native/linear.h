// y = x W^T + b, and what becomes of y.
//
// A few rows meet panel after panel straight from memory. More go in blocks, each a stretch of
// inputs at a time: their words are made once for all panels, and a panel's once for all of
// them, a slice of its inputs at a time, which the nearest cache holds.
#pragma once

#include <algorithm>

#include "finish.h"
#include "kernels.h"
#include "must.h"
#include "tile.h"
#include "words.h"

namespace kept::KEPT_NS {

// Vectors of a panel that many rows are multiplied by at once, and rows of such a tile.
constexpr int kStrip = 2, kTurnRows = kTileSums / kStrip;
static_assert(NV % kStrip == 0);
constexpr std::int64_t kTurnWords = words_stride(kTurnRows);  // of one place
static_assert((kBlockRows + kTurnRows - 1) / kTurnRows * kTurnWords <= kBlockWords, "in scratch");

// How the weights of a format are read. kFew: rows up to which reading them from memory leaves
// registers for the sums.
template <Format format>
struct ReadFormat;
template <>
struct ReadFormat<Format::fp32> {
    using Of = FloatWords;
    using Read = ReadWords<FloatWords>;
    static constexpr GroupScales kScales = GroupScales::none;
    static constexpr int kFew = kMaxRows;
};
template <>
struct ReadFormat<Format::bf16> {
    using Of = Bf16Products;
    using Read = std::conditional_t<std::is_same_v<Of, PairWords>, ReadWords<PairWords>,
                                    ReadPairs<Of, Bf16Pairs>>;
    static constexpr GroupScales kScales = GroupScales::none;
    static constexpr int kFew = kMaxRows;
};
template <>
struct ReadFormat<Format::int8> {
    using Of = Bf16Products;
    using Read = ReadPairs<Of, Int8Pairs>;
    static constexpr GroupScales kScales = GroupScales::none;
    static constexpr int kFew = (2 * kMaxRows + 2) / 3;
};
template <>
struct ReadFormat<Format::int4> {
    using Of = Bf16Products;
    using Read = ReadPairs<Of, Int4Pairs>;
    static constexpr GroupScales kScales = GroupScales::bf16;
    static constexpr int kFew = (5 * kMaxRows + 5) / 6;
};
template <>
struct ReadFormat<Format::mxfp4> : ReadFormat<Format::int4> {
    using Read = ReadPairs<Of, Fp4Pairs>;
};
template <>
struct ReadFormat<Format::q8_0> : ReadFormat<Format::int8> {
    static constexpr GroupScales kScales = GroupScales::fp16;
};
template <>
struct ReadFormat<Format::q4_0> : ReadFormat<Format::int4> {
    using Read = ReadPairs<Of, NibblePairs>;
    static constexpr GroupScales kScales = GroupScales::fp16;
};

template <class Of, class Read, bool kStreams, int kVectors, GroupScales kScales>
struct RunTile {
    const TileArgs& t;
    template <int kRows>
    void run() const {
        if constexpr (kScales != GroupScales::none)
            grouped_tile<Of, Read, kScales, kStreams, kRows, kVectors>(t);
        else
            tile<Of, Read, kStreams, kRows, kVectors>(t);
    }
};

// Writes a stretch of a panel's weights as words, which is exact.
template <class Of, class Read>
void expand(const std::byte* p, std::int64_t num_inputs, std::byte* out) {
    for (std::int64_t k = 0; k < num_inputs; k += Read::kInputs, p += kStepBytes)
        for (int v = 0; v < NV; ++v) {
            const Read read(p + v * W * kWordBytes);
            KEPT_UNROLL_ALL
            for (int i = 0; i < Read::kWords; ++i)
                Of::write(out + (k / Of::kInputs + i) * kStepBytes + v * W * kWordBytes,
                          read.word(i));
        }
}

// What a thread works in, of linear_scratch() floats.
struct LinearScratch {
    std::byte *expanded, *words;
    float* sums;
};

inline LinearScratch part_scratch(float* scratch, std::int64_t words) {
    scratch += (-reinterpret_cast<std::uintptr_t>(scratch) & 63) / sizeof(float);
    float* const behind = scratch + kExpandInputs * kPanel;
    return {reinterpret_cast<std::byte*>(scratch), reinterpret_cast<std::byte*>(behind),
            behind + words};
}

template <class F>
void few_rows(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
              float* scratch) {
    using Of = typename F::Of;
    const Weights& w = *args.weights;
    const std::int64_t inputs = w.padded_in();
    const LinearScratch s = part_scratch(scratch, few_words(inputs));
    const int rows = static_cast<int>(args.rows);
    if (!args.goes_on) make_words<Of>(args.in, 0, rows, 0, inputs, s.words);
    for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
        const std::byte* data = w.data + panel * w.bytes_per_panel();
        const TileArgs t{
            data,
            s.words,
            inputs,
            s.sums,
            false,
            data + kPrefetchAhead,
            kStepBytes,
            is_grouped(w.format) ? w.group_scales + panel * w.num_groups() * kPanel : nullptr};
        with_rows<F::kFew>(rows, RunTile<Of, typename F::Read, true, NV, F::kScales>{t});
        for (std::int64_t row = 0; row < args.rows; ++row)
            finish_row(args, panel, row, s.sums + row * kPanel);
    }
}

// A block of rows over a stretch of inputs.
struct RowBlock {
    std::int64_t first, rows, turns, first_input, num_inputs;
    std::byte* words;  // of one turn behind the other's

    std::int64_t first_row(std::int64_t turn) const { return rows * turn / turns; }
    int rows_of(std::int64_t turn) const {
        return static_cast<int>(first_row(turn + 1) - first_row(turn));
    }
    template <class Of>
    std::byte* words_of(std::int64_t turn) const {
        return words + turn * kTurnWords * (num_inputs / Of::kInputs) * kWordBytes;
    }
};

// A slice of a panel's inputs, which meets all rows of a block. Each tile fetches its share of the
// slice that comes next, so that memory is never idle.
struct Slice {
    std::int64_t panel, input, num_inputs;
    const std::byte *b, *ahead;
    std::int64_t ahead_bytes;
    const std::uint16_t* scales;
    float* sums;  // (rows, 32)
    bool is_last;
};

template <class Of, GroupScales kScales>
void slice_sums(const LinearArgs& args, const RowBlock& block, const Slice& slice) {
    constexpr int kStrips = NV / kStrip;
    const std::int64_t tiles = kStrips * block.turns, words = slice.num_inputs / Of::kInputs;
    const std::int64_t ahead_stride = (slice.ahead_bytes + tiles * words - 1) / (tiles * words);
    const std::byte* ahead = slice.ahead;
    for (int strip = 0; strip < kStrips; ++strip)
        for (std::int64_t turn = 0; turn < block.turns; ++turn) {
            const std::int64_t first = block.first_row(turn), column = strip * kStrip * W;
            const int rows = block.rows_of(turn);
            const std::byte* a = block.words_of<Of>(turn) + (slice.input - block.first_input) /
                                                                Of::kInputs * words_stride(rows) *
                                                                kWordBytes;
            float* sums = slice.sums + first * kPanel;
            const TileArgs t{slice.b + column * kWordBytes,
                             a,
                             slice.num_inputs,
                             sums + column,
                             slice.input > 0,
                             ahead,
                             ahead_stride,
                             slice.scales ? slice.scales + column : nullptr};
            const bool ends = slice.is_last && strip + 1 == kStrips;
            if (ends)
                for (int row = 0; row < rows; ++row)
                    fetch_out(args, slice.panel, block.first + first + row);
            with_rows<kTurnRows>(rows, RunTile<Of, ReadWords<Of>, false, kStrip, kScales>{t});
            ahead += ahead_stride * words;
            // At once, so that what is written goes its way while the next tile multiplies.
            if (ends)
                for (int row = 0; row < rows; ++row)
                    finish_row(args, slice.panel, block.first + first + row, sums + row * kPanel);
        }
}

// A block's sums (rows, 32) for one panel, which the last of its inputs finishes. next: the panel
// that comes then.
template <class F>
void panel_sums(const LinearArgs& args, std::int64_t panel, std::int64_t next,
                const RowBlock& block, std::byte* expanded, float* sums) {
    using Of = typename F::Of;
    constexpr bool kExpands = !std::is_same_v<typename F::Read, ReadWords<Of>>;
    const Weights& w = *args.weights;
    const auto at = [&](std::int64_t of, std::int64_t input) {
        return w.data + of * w.bytes_per_panel() + input / step_inputs(w.format) * kStepBytes;
    };
    const std::int64_t end = block.first_input + block.num_inputs;
    // Few rows take about as long as their weights come from memory: in shorter turns.
    const std::int64_t part =
        even_part(block.num_inputs, block.rows > kPanel ? kExpandInputs : kExpandInputs / 2);
    for (std::int64_t k = block.first_input; k < end; k += part) {
        const std::int64_t count = std::min(end - k, part);
        const std::byte* b = at(panel, k);
        if constexpr (kExpands) {
            expand<Of, typename F::Read>(b, count, expanded);
            b = expanded;
        }
        const Slice slice{panel,
                          k,
                          count,
                          b,
                          k + count < end ? at(panel, k + count) : at(next, block.first_input),
                          panel_bytes(w.format, count),
                          is_grouped(w.format)
                              ? w.group_scales + (panel * w.num_groups() + k / kGroup) * kPanel
                              : nullptr,
                          sums,
                          k + count == w.padded_in()};
        slice_sums<Of, F::kScales>(args, block, slice);
    }
}

template <class F>
void many_rows(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
               float* scratch) {
    using Of = typename F::Of;
    const std::int64_t inputs = args.weights->padded_in();
    const LinearScratch s = part_scratch(scratch, kBlockWords * kBlockInputs);
    const std::int64_t blocks = (args.rows + kBlockRows - 1) / kBlockRows;
    // If all inputs are had at once, their words are good for all panels.
    const bool at_once = inputs <= kBlockInputs;
    const std::int64_t stretch = even_part(inputs, kBlockInputs);
    const std::int64_t group = at_once ? last_panel - first_panel : kBlockPanels;
    for (std::int64_t i = 0; i < blocks; ++i) {
        const std::int64_t first = args.rows * i / blocks;
        const std::int64_t rows = args.rows * (i + 1) / blocks - first;
        RowBlock block{first, rows, (rows + kTurnRows - 1) / kTurnRows, 0, 0, s.words};
        for (std::int64_t panel = first_panel; panel < last_panel; panel += group) {
            const std::int64_t end = std::min(panel + group, last_panel);
            for (std::int64_t k = 0; k < inputs; k += stretch) {
                block.first_input = k;
                block.num_inputs = std::min(inputs - k, stretch);
                for (std::int64_t turn = 0; turn < block.turns; ++turn)
                    make_words<Of>(args.in, first + block.first_row(turn), block.rows_of(turn), k,
                                   block.num_inputs, block.words_of<Of>(turn));
                for (std::int64_t p = panel; p < end; ++p)
                    panel_sums<F>(args, p, std::min(p + 1, last_panel - 1), block, s.expanded,
                                  s.sums + (at_once ? 0 : p - panel) * rows * kPanel);
            }
        }
    }
    settle_stores();
}

// Whether weights of 4 bits come this way: not where dispatch.cpp knows of whole numbers for them,
// as it does from AVX2 on, and what is never run would take a quarter of the time to compile.
#if defined(__AVX2__)
constexpr bool kTakesNibbles = false;
#else
constexpr bool kTakesNibbles = true;
#endif

template <Format format>
void linear_of(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
               float* scratch) {
    using F = ReadFormat<format>;
    if constexpr (is_nibbles(format) && !kTakesNibbles)
        must(false, "weights of 4 bits are multiplied as whole numbers here");
    else if (args.rows <= F::kFew)
        few_rows<F>(args, first_panel, last_panel, scratch);
    else
        many_rows<F>(args, first_panel, last_panel, scratch);
}

inline void linear(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                   float* scratch) {
    if (args.rows == 0) return;
    switch (args.weights->format) {
        case Format::fp32:
            return linear_of<Format::fp32>(args, first_panel, last_panel, scratch);
        case Format::bf16:
            return linear_of<Format::bf16>(args, first_panel, last_panel, scratch);
        case Format::int8:
            return linear_of<Format::int8>(args, first_panel, last_panel, scratch);
        case Format::int4:
            return linear_of<Format::int4>(args, first_panel, last_panel, scratch);
        case Format::mxfp4:
            return linear_of<Format::mxfp4>(args, first_panel, last_panel, scratch);
        case Format::q8_0:
            return linear_of<Format::q8_0>(args, first_panel, last_panel, scratch);
        case Format::q4_0:
            return linear_of<Format::q4_0>(args, first_panel, last_panel, scratch);
    }
}

}  // namespace kept::KEPT_NS
