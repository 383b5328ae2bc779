// linear() where weights are of 4 bits, for any rows where no tiles multiply bf16 and for a few
// where they do: rows become whole numbers of 16 bits, once for all panels (fixed_rows.h).
#pragma once

#include <algorithm>

#include "finish_rows.h"
#include "fixed_tile.h"
#include "fp4_bytes.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kFixedSlice = 8;        // groups whose words are made for many rows
constexpr std::int64_t kFixedBytes = 1 << 19;  // of rows that stay in the second cache
static_assert(kFixedSlice * kGroupSteps * kWordsStep <= kExpandInputs * kPanel * 4, "in scratch");
static_assert(kFixedBytes <= kBlockWords * kBlockInputs * 4, "in scratch");

// Rows that are multiplied together: those that the second cache holds, or one that it does not.
constexpr std::int64_t fixed_at_once(const FixedRows& rows) {
    return std::clamp<std::int64_t>(kFixedBytes / rows.stride(), 1, kBlockRows);
}
// From this width on few_words() is more than the words of a block, and behind it linear_scratch()
// has room for the sums of a few rows alone.
constexpr std::int64_t kWideInputs = kBlockWords * kBlockInputs / kFewRows;
static_assert(few_words(kWideInputs - kGroup) <= kBlockWords * kBlockInputs);
static_assert(fixed_at_once({nullptr, kWideInputs}) <= kFewRows, "their sums in scratch");

// Bytes of weights that are prefetched ahead of a few rows.
inline std::int64_t fixed_ahead() {
    return kPrefetchPastCaches ? 8192 : 1024;
}

template <class Read>
struct RunFixedTile {
    const FixedTileArgs& t;
    template <int kRows>
    void run() const {
        fixed_tile<Read, kRows>(t);
    }
};

// A block over a slice of a panel's inputs, in as few and as even turns as registers allow. The
// first keeps its words for the others. Each fetches its share of what comes next, so that memory
// is never idle.
inline void fixed_turns(FixedTileArgs t, std::int64_t rows) {
    const std::int64_t turns = (rows + kFixedRows - 1) / kFixedRows;
    const std::int64_t steps = t.num_groups * kGroupSteps, bytes = steps * kStepBytes;
    const std::byte* const next = t.b + bytes;
    float* const c = t.c;
    for (std::int64_t turn = 0; turn < turns; ++turn) {
        t.first_row = rows * turn / turns;
        t.c = c + t.first_row * kPanel;
        const int count = static_cast<int>(rows * (turn + 1) / turns - t.first_row);
        t.ahead = next + bytes * turn / turns;
        t.ahead_stride = bytes / turns / steps;
        if (turn == 0) {
            with_rows<kFixedRows>(count, RunFixedTile<ReadNibbles<true>>{t});
            t.b = t.kept;
        } else {
            with_rows<kFixedRows>(count, RunFixedTile<ReadMadeWords>{t});
        }
    }
}

// What codes of a format stand for: `factor` times the numbers of a table.
struct FixedLevels {
    const std::uint8_t* table;
    float factor;
};

inline FixedLevels fixed_levels(Format format) {
    if (format == Format::int4) return {kInt4Bytes, 1.0f};
    return format == Format::mxfp4 ? FixedLevels{kFp4Bytes, 0.5f} : FixedLevels{kNibbleBytes, 1.0f};
}

// Sums (rows, 32) of one panel.
inline void fixed_sums(const Weights& w, std::int64_t panel, const FixedRows& a, std::int64_t rows,
                       float* sums, std::byte* kept) {
    const std::byte* data = w.data + panel * w.bytes_per_panel();
    const std::int64_t groups = w.num_groups();
    FixedTileArgs t{};
    t.b = data, t.table = fixed_levels(w.format).table, t.a = a, t.c = sums, t.kept = kept;
    t.scales = w.group_scales + panel * groups * kPanel;
    t.halves = group_scales_of(w.format) == GroupScales::fp16;
    if (rows <= kFixedRows) {
        t.num_groups = groups, t.ahead = data + fixed_ahead(), t.ahead_stride = kStepBytes;
        with_rows<kFixedRows>(static_cast<int>(rows), RunFixedTile<ReadNibbles<false>>{t});
        return;
    }
    for (std::int64_t group = 0; group < groups; group += kFixedSlice) {
        t.b = data + group * kGroupSteps * kStepBytes, t.resume = group > 0;
        t.first_group = group, t.num_groups = std::min(groups - group, kFixedSlice);
        fixed_turns(t, rows);
    }
}

// What a thread works in, of linear_scratch() floats.
struct FixedScratch {
    std::byte *kept, *rows;
    float* sums;
};

inline FixedScratch fixed_scratch(float* scratch, std::int64_t rows, std::int64_t inputs) {
    scratch += (-reinterpret_cast<std::uintptr_t>(scratch) & 63) / sizeof(float);
    float* const behind = scratch + kExpandInputs * kPanel;
    const std::int64_t few = few_words(inputs);
    return {reinterpret_cast<std::byte*>(scratch), reinterpret_cast<std::byte*>(behind),
            behind + (rows > 1 ? std::max(few, kBlockWords * kBlockInputs) : few)};
}

void linear_fixed(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                  float* scratch) {
    if (args.rows == 0 || first_panel == last_panel) return;
    const Weights& w = *args.weights;
    const FixedScratch s = fixed_scratch(scratch, args.rows, w.padded_in());
    const FixedRows a{s.rows, w.padded_in()};
    const std::int64_t most = fixed_at_once(a);
    const std::int64_t blocks = (args.rows + most - 1) / most;
    for (std::int64_t i = 0; i < blocks; ++i) {
        const std::int64_t first = args.rows * i / blocks;
        const std::int64_t rows = args.rows * (i + 1) / blocks - first;
        if (blocks > 1 || !args.goes_on)
            make_fixed(args.in, first, rows, code_bits(w.format), fixed_levels(w.format).factor, a);
        for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
            if (rows > kFixedRows) fetch_rows(args, panel, first, rows);
            fixed_sums(w, panel, a, rows, s.sums, s.kept);
            for (std::int64_t row = 0; row < rows; ++row)
                finish_row(args, panel, first + row, s.sums + row * kPanel);
        }
    }
    settle_stores();
}

}  // namespace kept::KEPT_NS
