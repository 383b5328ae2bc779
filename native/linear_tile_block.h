// A block of rows times one panel over a slice of inputs, on matrix tiles.
//
//   sums 0 1 | 4 rows 1 to 16        6 7 weights: two tiles of 16 outputs
//        2 3 | 5 the others
//
// Tiles are not renamed far: a load waits for the products of what it overwrites. So loads and
// products take turns, and what touches no tile (prefetches, rows of the panel before that are to
// be finished) comes between them.
#pragma once

#include "linear.h"
#include "tile_cut.h"
#include "tile_shapes.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kDotInputs = 32;                          // of one dot(): 16 pairs
constexpr std::int64_t kDotBytes = kDotInputs / 2 * kStepBytes;  // of a panel of bf16
constexpr std::int64_t kDotRows = kTileBlock * kDotInputs * 2;   // bytes of a block's rows, packed
static_assert(kTileBlock == 2 * kTileRows && kDotInputs == kGroup && kPanel == 2 * 16);

// Rows [first, first + rows) in blocks of as many each. The last goes back as far as it must: rows
// that it has in common with the one before are multiplied twice.
class RowBlocks {
  public:
    RowBlocks(std::int64_t first, std::int64_t rows, std::int64_t blocks)
        : first_(first), rows_(rows), size_((rows + blocks - 1) / blocks) {}

    std::int64_t rows() const { return rows_; }
    std::int64_t size() const { return size_; }
    std::int64_t first_row(std::int64_t block) const {
        return first_ + std::min(block * size_, rows_ - size_);
    }
    // Of row i of them all: which it is, and where among the blocks, 32 rows each, its sums are.
    std::int64_t row(std::int64_t i) const { return first_ + i; }
    std::int64_t place(std::int64_t i) const {
        const std::int64_t block = i / size_;
        return block * kTileBlock + row(i) - first_row(block);
    }

  private:
    std::int64_t first_, rows_, size_;
};

// What comes next from memory: `share` bytes a step, to the outer cache. To the nearest one each
// line would wait in one of its few buffers, and loads of tiles behind it.
struct Upcoming {
    const std::byte *next = nullptr, *end = nullptr;
    std::int64_t share = 0;

    void fetch() {
        const std::byte* const to = std::min(next + share, end);
        for (; next < to; next += 64) prefetch_outer(next);
    }
};

// Rows of a panel whose sums (blocks, 32, 32) are there, to be finished while the next panel is
// multiplied: what that takes on vectors the tiles then do not wait for.
class Unfinished {
  public:
    explicit Unfinished(const LinearArgs& args) : args_(args) {}

    void begin(std::int64_t panel, const RowBlocks& rows, const float* sums, std::int64_t steps) {
        rest();
        rows_ = &rows, panel_ = panel, sums_ = sums, next_ = 0;
        pace_ = rows.rows() * kOne / steps + 1;
        due_ = 0;
    }
    // A step of as many as `begin` was told of.
    void step() {
        for (due_ += pace_; due_ >= kOne && !is_over(); due_ -= kOne) finish();
    }
    void rest() {
        while (!is_over()) finish();
    }

  private:
    static constexpr std::int64_t kOne = 1 << 16;

    bool is_over() const { return !rows_ || next_ == rows_->rows(); }
    void finish() {
        finish_row(args_, panel_, rows_->row(next_), sums_ + rows_->place(next_) * kPanel);
        ++next_;
    }

    const LinearArgs& args_;
    const RowBlocks* rows_ = nullptr;
    std::int64_t panel_ = 0, next_ = 0, pace_ = 0, due_ = 0;
    const float* sums_ = nullptr;
};

struct TileBlock {
    const std::byte* rows;    // where they come from
    std::int64_t row_stride;  // bytes
    std::byte* packed;        // the same (steps, 32 rows, 32 inputs), to be written or read
    const std::byte* b;
    std::int64_t num_inputs;
    float* sums;   // (32, 32)
    bool goes_on;  // from what they are
};

template <class Tiles, bool kPacks>
void block_sums(const TileBlock& x, Upcoming& upcoming, Unfinished& unfinished) {
    constexpr std::int64_t kHalf = kTileRows * kPanel;
    if (x.goes_on)
        for_constants<4>([&]<int t>() {
            Tiles::template load<t>(x.sums + t / 2 * kHalf + t % 2 * 16, kPanel * 4);
        });
    else
        for_constants<4>([]<int t>() { Tiles::template zero<t>(); });
    const std::int64_t stride = kPacks ? x.row_stride : kTileRowBytes;
    const std::int64_t step = kPacks ? kDotInputs * 2 : kDotRows;
    const std::byte* a = kPacks ? x.rows : x.packed;
    const std::byte* b = x.b;
    std::byte* packed = x.packed;
    for (std::int64_t k = 0; k < x.num_inputs; k += kDotInputs) {
        Tiles::template load<6>(b, kStepBytes);
        Tiles::template load_passing<4>(a, stride);
        Tiles::template dot<0, 4, 6>();
        Tiles::template load<7>(b + kTileRowBytes, kStepBytes);
        Tiles::template dot<1, 4, 7>();
        Tiles::template load_passing<5>(a + kTileRows * stride, stride);
        Tiles::template dot<2, 5, 6>();
        if constexpr (kPacks) {
            Tiles::template store<4>(packed, kTileRowBytes);
            Tiles::template store<5>(packed + kTileRows * kTileRowBytes, kTileRowBytes);
            packed += kDotRows;
        }
        upcoming.fetch();
        Tiles::template dot<3, 5, 7>();
        unfinished.step();
        a += step;
        b += kDotBytes;
    }
    for_constants<4>([&]<int t>() {
        Tiles::template store<t>(x.sums + t / 2 * kHalf + t % 2 * 16, kPanel * 4);
    });
}

}  // namespace kept::KEPT_NS
