// linear() on matrix tiles over weights of 4 bits: codes become bf16 a slice of inputs at a time,
// once for all blocks of rows.
#pragma once

#include "finish_rows.h"
#include "group_rows.h"
#include "linear_tile_groups.h"
#include "linear_tile_parts.h"

namespace kept::KEPT_NS {

// Where the parts of a thread's scratch lie, in the order of tile_scratch().
struct GroupScratch {
    std::byte* expanded;    // a slice's codes as bf16
    float* products;        // kProductFloats
    float* scales;          // (groups of a slice, 32)
    float* sums;            // (panels of a group, blocks, rows of a block, 32)
    std::uint16_t* packed;  // (blocks, groups of a stretch, rows of a block, 32 inputs)

    GroupScratch(float* scratch, std::int64_t sums_floats) {
        const TileScratch parts(scratch, 0);
        expanded = parts.expanded;
        products = parts.sums;
        scales = products + kProductFloats;
        sums = products + kGroupScratch / 4;
        packed = reinterpret_cast<std::uint16_t*>(sums + sums_floats);
    }
};
static_assert((kProductFloats + kTileSlice / kGroup * kPanel) * 4 == kGroupScratch, "in scratch");

// Of fewer rows blocks have places that stay empty: a kernel for each would be a lot of code.
constexpr int kLeastGroupRows = 8;

template <class Tiles, int kRows = kGroupRows>
void run_groups(std::int64_t rows, const GroupBlock& block, Upcoming& upcoming) {
    if constexpr (kRows > kLeastGroupRows)
        if (rows < kRows) return run_groups<Tiles, kRows - 1>(rows, block, upcoming);
    group_sums<Tiles, kRows>(block, upcoming);
}

// Writes a slice of weights as bf16, which is exact.
inline void expand_nibbles(Format format, const std::byte* b, std::int64_t num_inputs,
                           std::byte* out) {
    if (format == Format::int4)
        return expand<PairWords, ReadPairs<PairWords, Int4Pairs>>(b, num_inputs, out);
    if (format == Format::mxfp4)
        return expand<PairWords, ReadPairs<PairWords, Fp4Pairs>>(b, num_inputs, out);
    expand<PairWords, ReadPairs<PairWords, NibblePairs>>(b, num_inputs, out);
}

// Rows [row, row + rows), panels [first, last).
template <class Tiles>
class GroupParts {
  public:
    GroupParts(const LinearArgs& args, std::int64_t row, std::int64_t rows, std::int64_t first,
               std::int64_t last, float* scratch)
        : args_(args),
          w_(*args.weights),
          row_(row),
          rows_(rows),
          cut_(rows, w_.padded_in(), last - first, true, kGroupBlock),
          panels_(w_, cut_, first, last),
          block_(std::max<std::int64_t>((rows + cut_.blocks - 1) / cut_.blocks, kLeastGroupRows)),
          scratch_(scratch, std::min(cut_.group, last - first) * cut_.blocks * block_ * kPanel) {}

    // Of a block, which tiles have the shapes for when it runs.
    std::int64_t block_rows() const { return block_; }

    void run() {
        TileSlices slices = panels_.slices();
        // Of places that no row has, whose products nobody looks at.
        std::fill_n(scratch_.packed, cut_.blocks * cut_.stretch * block_, std::uint16_t{0});
        while (!slices.is_over()) {
            const TileSlice slice = slices.at();
            slices.step();
            if (panels_.packs(slice) && slice.input == slice.stretch) pack(slice);
            widen(slice);
            upcoming_ = panels_.behind(slice, slices);
            fetch_scales(slices);
            for (std::int64_t i = 0; i < cut_.blocks; ++i) multiply(slice, i);
        }
    }

  private:
    std::int64_t first_row(std::int64_t block) const { return rows_ * block / cut_.blocks; }

    const std::uint16_t* scales_of(const TileSlice& slice) const {
        return w_.group_scales + (slice.panel * w_.num_groups() + slice.input / kGroup) * kPanel;
    }
    std::uint16_t* packed_of(const TileSlice& slice, std::int64_t block, std::int64_t input) const {
        return scratch_.packed + (block * cut_.stretch + input - slice.stretch) * block_;
    }

    void pack(const TileSlice& slice) {
        for (std::int64_t i = 0; i < cut_.blocks; ++i)
            make_multiples(args_.in, row_ + first_row(i), first_row(i + 1) - first_row(i),
                           slice.stretch, slice.stretch_end - slice.stretch, code_bits(w_.format),
                           block_, packed_of(slice, i, slice.stretch));
    }

    void widen(const TileSlice& slice) {
        expand_nibbles(w_.format, panels_.weights_of(slice), slice.num_inputs(), scratch_.expanded);
        const std::uint16_t* from = scales_of(slice);
        const bool halves = group_scales_of(w_.format) == GroupScales::fp16;
        for (std::int64_t i = 0; i < slice.num_inputs() / kGroup * kPanel; i += W)
            store(scratch_.scales + i, halves ? load_fp16(from + i) : load_bf16(from + i));
    }

    // Scales of what comes behind a slice.
    void fetch_scales(const TileSlices& next) const {
        if (next.is_over()) return;
        const std::int64_t groups = next.at().num_inputs() / kGroup;
        for (std::int64_t g = 0; g < groups; ++g) prefetch_outer(scales_of(next.at()) + g * kPanel);
    }

    void multiply(const TileSlice& slice, std::int64_t i) {
        float* const sums =
            scratch_.sums + ((slice.panel - slice.group) * cut_.blocks + i) * block_ * kPanel;
        if (slice.input == 0) std::fill_n(sums, block_ * kPanel, 0.0f);
        const GroupBlock block{reinterpret_cast<const std::byte*>(packed_of(slice, i, slice.input)),
                               scratch_.expanded,
                               scratch_.scales,
                               slice.num_inputs() / kGroup,
                               sums,
                               scratch_.products};
        const bool ends = slice.input_end == w_.padded_in();
        const std::int64_t first = row_ + first_row(i), count = first_row(i + 1) - first_row(i);
        if (ends) fetch_rows(args_, slice.panel, first, count);
        run_groups<Tiles>(block_, block, upcoming_);
        if (!ends) return;
        finish_rows(args_, slice.panel, first, count, sums);
    }

    const LinearArgs& args_;
    const Weights& w_;
    const std::int64_t row_, rows_;
    const TileCut cut_;
    const SlicedPanels panels_;
    const std::int64_t block_;
    const GroupScratch scratch_;
    Upcoming upcoming_;
};

template <class Tiles>
void grouped_on_tiles(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                      float* scratch) {
    if (args.rows == 0 || first_panel == last_panel) return;
    TileShapes<Tiles> shapes;
    const std::int64_t parts = (args.rows + kTileRowsAtOnce - 1) / kTileRowsAtOnce;
    for (std::int64_t i = 0; i < parts; ++i) {
        const std::int64_t first = args.rows * i / parts;
        GroupParts<Tiles> part(args, first, args.rows * (i + 1) / parts - first, first_panel,
                               last_panel, scratch);
        shapes.use(part.block_rows(), part.block_rows(), part.block_rows());
        part.run();
    }
    settle_stores();
}

}  // namespace kept::KEPT_NS
