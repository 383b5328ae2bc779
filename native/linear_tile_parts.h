// linear() on matrix tiles, of more rows than a tile has.
#pragma once

#include "linear_tile_block.h"

namespace kept::KEPT_NS {

// Where the parts of a thread's scratch lie, in the order of tile_scratch().
struct TileScratch {
    std::byte* expanded;  // a slice's codes as bf16
    float* sums;          // (panels of a group and one more, blocks, 32, 32)
    std::byte* packed;    // (blocks, steps of a stretch, 32 rows, 32 inputs)

    TileScratch(float* scratch, std::int64_t sums_floats) {
        // Rows of a tile that straddle cache lines would take twice as long to load.
        expanded = reinterpret_cast<std::byte*>(
            scratch + (-reinterpret_cast<std::uintptr_t>(scratch) & 63) / sizeof(float));
        sums = reinterpret_cast<float*>(expanded + kTileSlice * kPanel * 2);
        packed = reinterpret_cast<std::byte*>(sums + sums_floats);
    }
};

// A slice of one panel's inputs, of a stretch of inputs that a group of panels goes through.
struct TileSlice {
    std::int64_t group, group_end;      // panels
    std::int64_t stretch, stretch_end;  // inputs
    std::int64_t panel, input, input_end;

    std::int64_t num_inputs() const { return input_end - input; }
};

// The slices of panels [first, last), one after the other.
class TileSlices {
  public:
    TileSlices(const TileCut& cut, std::int64_t inputs, std::int64_t first, std::int64_t last)
        : cut_(cut), inputs_(inputs), last_(last) {
        begin_group(first);
    }

    bool is_over() const { return at_.panel == last_; }
    const TileSlice& at() const { return at_; }
    void step() {
        if (at_.input_end < at_.stretch_end)
            begin_slice(at_.panel, at_.input_end);
        else if (at_.panel + 1 < at_.group_end)
            begin_slice(at_.panel + 1, at_.stretch);
        else if (at_.stretch_end < inputs_)
            begin_stretch(at_.stretch_end);
        else
            begin_group(at_.group_end);
    }

  private:
    void begin_group(std::int64_t panel) {
        at_.group = panel;
        at_.group_end = std::min(panel + cut_.group, last_);
        begin_stretch(0);
    }
    void begin_stretch(std::int64_t input) {
        at_.stretch = input;
        at_.stretch_end = std::min(input + cut_.stretch, inputs_);
        begin_slice(at_.group, input);
    }
    void begin_slice(std::int64_t panel, std::int64_t input) {
        at_.panel = panel;
        at_.input = input;
        at_.input_end = std::min(input + cut_.slice, at_.stretch_end);
    }

    const TileCut& cut_;
    const std::int64_t inputs_, last_;
    TileSlice at_;
};

// Panels [first, last) of a matrix as their slices are read.
class SlicedPanels {
  public:
    SlicedPanels(const Weights& w, const TileCut& cut, std::int64_t first, std::int64_t last)
        : w_(w), cut_(cut), first_(first), last_(last) {}

    TileSlices slices() const { return TileSlices(cut_, w_.padded_in(), first_, last_); }
    const std::byte* weights_of(const TileSlice& slice) const {
        return w_.data + slice.panel * w_.bytes_per_panel() +
               slice.input / step_inputs(w_.format) * kStepBytes;
    }
    // Whether rows are packed for it: a stretch that was packed for a group before is gone by now,
    // unless it is all.
    bool packs(const TileSlice& slice) const {
        return slice.panel == (cut_.stretch < w_.padded_in() ? slice.group : first_);
    }
    // What comes behind a slice, in shares for the steps of all its blocks.
    Upcoming behind(const TileSlice& slice, const TileSlices& next) const {
        if (next.is_over()) return {};
        const std::byte* data = weights_of(next.at());
        const std::int64_t bytes = panel_bytes(w_.format, next.at().num_inputs());
        const std::int64_t steps = cut_.blocks * (slice.num_inputs() / kDotInputs);
        return {data, data + bytes, round_up((bytes + steps - 1) / steps, 64)};
    }

  private:
    const Weights& w_;
    const TileCut& cut_;
    const std::int64_t first_, last_;
};

// Rows [row, row + rows), panels [first, last).
template <class Tiles>
class TileParts {
  public:
    TileParts(const LinearArgs& args, std::int64_t row, std::int64_t rows, std::int64_t first,
              std::int64_t last, float* scratch)
        : args_(args),
          w_(*args.weights),
          first_(first),
          cut_(rows, w_.padded_in(), last - first, w_.format != Format::bf16),
          panels_(w_, cut_, first, last),
          rows_(row, rows, cut_.blocks),
          places_(std::min(cut_.group, last - first) + 1),
          scratch_(scratch, places_ * cut_.blocks * kBlockSums),
          unfinished_(args) {}

    // Of a block, which tiles have the shapes for when it runs.
    std::int64_t block_rows() const { return rows_.size(); }

    void run() {
        TileSlices slices = panels_.slices();
        while (!slices.is_over()) {
            const TileSlice slice = slices.at();
            slices.step();
            upcoming_ = panels_.behind(slice, slices);
            multiply(slice);
        }
        unfinished_.rest();
    }

  private:
    // One that no other panel of the group has, nor the one before the group.
    float* sums_of(const TileSlice& slice) const {
        return scratch_.sums + (slice.panel - first_) % places_ * cut_.blocks * kBlockSums;
    }

    void multiply(const TileSlice& slice) {
        const std::byte* b = panels_.weights_of(slice);
        if (w_.format == Format::int8) {
            expand<PairWords, ReadPairs<PairWords, Int8Pairs>>(b, slice.num_inputs(),
                                                               scratch_.expanded);
            b = scratch_.expanded;
        }
        for (std::int64_t i = 0; i < cut_.blocks; ++i) {
            const TileBlock block = operands(slice, i, b);
            if (panels_.packs(slice))
                block_sums<Tiles, true>(block, upcoming_, unfinished_);
            else
                block_sums<Tiles, false>(block, upcoming_, unfinished_);
        }
        if (slice.input_end < w_.padded_in()) return;
        const std::int64_t steps = (slice.stretch_end - slice.stretch) / kDotInputs * cut_.blocks;
        unfinished_.begin(slice.panel, rows_, sums_of(slice), steps);
    }

    TileBlock operands(const TileSlice& slice, std::int64_t i, const std::byte* b) const {
        TileBlock x;
        x.row_stride = args_.in.stride * 2;
        x.rows = static_cast<const std::byte*>(args_.in.data) + rows_.first_row(i) * x.row_stride +
                 slice.input * 2;
        x.packed = scratch_.packed +
                   (i * cut_.stretch + slice.input - slice.stretch) / kDotInputs * kDotRows;
        x.b = b;
        x.num_inputs = slice.num_inputs();
        x.sums = sums_of(slice) + i * kBlockSums;
        x.goes_on = slice.input > 0;
        return x;
    }

    const LinearArgs& args_;
    const Weights& w_;
    const std::int64_t first_;
    const TileCut cut_;
    const SlicedPanels panels_;
    const RowBlocks rows_;
    const std::int64_t places_;
    const TileScratch scratch_;
    Upcoming upcoming_;
    Unfinished unfinished_;
};

}  // namespace kept::KEPT_NS
