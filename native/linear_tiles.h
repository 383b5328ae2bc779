// linear() on matrix tiles, for bf16 and int8 weights; other formats go the way of linear.h.
//
// Every output element is one chain of dot() over its inputs in ascending order, 32 at a time, in
// one tile from the first input to the last, whether its row comes alone or among others. A row's
// numbers depend on no other row of a tile, so rows can be cut into tiles in any way.
//
// Rows go in blocks of 32. Sums are tiles 0 to 3, then come those of a and of b:
//
//   17 to 32 rows, 1 panel    0 1 | 4 a   6 7 b        up to 16 rows, 2 panels   0 1 2 3 | 4 a
//                             2 3 | 5 a                                          5 6 7 b in turn
//
// Four sums are under way at once, which hides the latency of dot(). With one block the weights
// come straight from memory and are prefetched as they go. With more, a group of panels that the
// nearby cache holds is multiplied with every block before the next, which is prefetched meanwhile:
// of up to four blocks one panel, so that what is fetched is used soon.
#pragma once

#include <algorithm>

#include "linear.h"
#include "tile_shapes.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kDotInputs = 32;                          // of one dot(): 16 pairs
constexpr std::int64_t kDotBytes = kDotInputs / 2 * kStepBytes;  // of a panel of bf16
constexpr std::int64_t kStretch = 128;      // inputs whose codes are expanded between two dots
constexpr std::int64_t kTilesAhead = 4096;  // bytes of a panel's own weights
constexpr std::int64_t kFewBlocks = 4 * kTileBlock;  // rows that take one panel after the other
static_assert(kTileBlock * kPanel + kStretch * kPanel <= kSliceInputs * kPanel / 2, "in scratch");
static_assert(kTileBlock == 2 * kTileRows && kDotInputs == kGroup && kPanel == 2 * 16);

// Prefetches `bytes` a step. At the end of a panel the next one to be read is `jump` further on.
struct Ahead {
    const std::byte *next, *panel_end;
    std::int64_t bytes, jump;
    void step() {
        for (std::int64_t i = 0; i < bytes; i += 64) prefetch_near(next + i);
        next += bytes;
        if (next == panel_end) next += jump;
    }
};

// A block of rows, one or two panels, and where their sums go: (panels, 16, 32), or (32, 32).
struct TileBlock {
    const std::byte* a;
    std::int64_t a_stride;  // bytes between rows
    std::int64_t num_inputs;
    const std::byte* b;
    std::int64_t b_stride;  // bytes between panels
    std::byte* expanded;    // room for the codes of a stretch of both panels, or null: b is bf16
    Ahead ahead[2];
    float* sums;
};

// kAgain: the weights are read again and again from the outer cache, and are fetched from there.
template <class Tiles, int kRowTiles, int kPanels, bool kAgain>
void block_sums(TileBlock x) {
    constexpr int kColumns = 2 * kPanels, kA = 4, kB = kA + kRowTiles, kNumB = kNumTiles - kB;
    static_assert(kRowTiles * kColumns <= kA);
    for_constants<kRowTiles * kColumns>([]<int t>() { Tiles::template zero<t>(); });
    const std::byte* a = x.a;
    const std::int64_t stretch = x.expanded ? kStretch : x.num_inputs;
    for (std::int64_t first = 0; first < x.num_inputs; first += stretch) {
        const std::int64_t count = std::min(stretch, x.num_inputs - first);
        const std::byte* b[kPanels];
        KEPT_UNROLL_ALL
        for (int panel = 0; panel < kPanels; ++panel) {
            b[panel] = x.b + panel * x.b_stride;
            if (!x.expanded) continue;
            std::byte* out = x.expanded + panel * kStretch / kDotInputs * kDotBytes;
            expand<PairWords, ReadPairs<PairWords, Int8Pairs>>(
                b[panel] + first / step_inputs(Format::int8) * kStepBytes, count, out);
            b[panel] = out;
        }
        for (std::int64_t k = 0; k < count; k += kDotInputs) {
            for_constants<kRowTiles>([&]<int i>() {
                Tiles::template load<kA + i>(a + i * kTileRows * x.a_stride, x.a_stride);
            });
            a += kDotInputs * 2;
            for_constants<kColumns>([&]<int j>() {
                constexpr int kThis = kB + j % kNumB;
                Tiles::template load<kThis>(b[j / 2] + j % 2 * kTileRowBytes, kStepBytes);
                for_constants<kRowTiles>(
                    []<int i>() { Tiles::template dot<i * kColumns + j, kA + i, kThis>(); });
            });
            KEPT_UNROLL_ALL
            for (int panel = 0; panel < kPanels; ++panel) {
                b[panel] += kDotBytes;
                x.ahead[panel].step();
                if constexpr (kAgain)
                    for (std::int64_t i = 0; i < kDotBytes; i += 64)
                        prefetch_near(b[panel] + kDotBytes + i);
            }
        }
    }
    for_constants<kRowTiles * kColumns>([&]<int t>() {
        constexpr int kRow = t / kColumns, kColumn = t % kColumns;
        float* to = x.sums + (kRow + kColumn / 2) * kTileRows * kPanel + kColumn % 2 * 16;
        Tiles::template store<t>(to, kPanel * 4);
    });
}

// Gives the calling thread's tiles the shapes that a block's rows need, and frees them in the end,
// which spares the system saving them.
template <class Tiles>
class TileShapes {
  public:
    TileShapes() = default;
    TileShapes(const TileShapes&) = delete;
    TileShapes& operator=(const TileShapes&) = delete;
    ~TileShapes() {
        if (rows_ > 0) Tiles::release();
    }
    void use(std::int64_t rows) {
        if (rows == rows_) return;
        rows_ = rows;
        const auto upper = static_cast<std::uint8_t>(std::min<std::int64_t>(rows, kTileRows));
        const auto lower = static_cast<std::uint8_t>(rows - upper);
        TileConfig config;
        std::fill_n(config.row_bytes, kNumTiles, std::uint16_t{kTileRowBytes});
        std::fill_n(config.rows, kNumTiles, std::uint8_t{kTileRows});
        config.rows[0] = config.rows[1] = config.rows[4] = upper;
        config.rows[2] = config.rows[3] = lower > 0 ? lower : upper;
        if (lower > 0) config.rows[5] = lower;
        Tiles::configure(config);
    }

  private:
    std::int64_t rows_ = 0;
};

// Panels [first, last) times all rows, one block of rows after the other.
template <class Tiles>
class TileLinear {
  public:
    TileLinear(const LinearArgs& args, float* scratch) : args_(args), w_(*args.weights) {
        // Rows of a tile that straddle cache lines would take twice as long to load.
        const auto address = reinterpret_cast<std::uintptr_t>(scratch);
        sums_ = scratch + (-address & 63) / sizeof(float);
        expanded_ = reinterpret_cast<std::byte*>(sums_ + kTileBlock * kPanel);
    }

    void run(std::int64_t first, std::int64_t last) {
        const std::int64_t rows = args_.rows;
        const std::int64_t size = rows <= kTileRows    ? 2
                                  : rows <= kFewBlocks ? 1
                                                       : tile_panels(w_.padded_in());
        for (std::int64_t panel = first; panel < last; panel += size)
            group(panel, std::min(panel + size, last), last);
    }

  private:
    bool has_many_rows() const { return args_.rows > kTileBlock; }

    // Panels [first, last) of those up to `end`.
    void group(std::int64_t first, std::int64_t last, std::int64_t end) {
        const std::int64_t size = last - first;
        const std::int64_t next_bytes = (std::min(last + size, end) - last) * w_.bytes_per_panel();
        const std::int64_t num_turns = (args_.rows + kTileBlock - 1) / kTileBlock * size;
        TileBlock block = operands(first, last);
        const std::byte* const b = block.b;
        std::int64_t turn = 0;
        for (std::int64_t row = 0; row < args_.rows; row += kTileBlock) {
            const std::int64_t rows = std::min(kTileBlock, args_.rows - row);
            const std::int64_t most = rows <= kTileRows ? 2 : 1;  // panels at once
            shapes_.use(rows);
            block.a = static_cast<const std::byte*>(args_.in.data) + row * block.a_stride;
            for (std::int64_t panel = first; panel < last;) {
                const std::int64_t panels = std::min(most, last - panel);
                block.b = b + (panel - first) * block.b_stride;
                for (std::int64_t i = 0; i < panels; ++i, ++turn)
                    block.ahead[i] = has_many_rows() ? next_group(last, next_bytes, turn, num_turns)
                                                     : own_stream(panel + i, size);
                if (has_many_rows())
                    multiply<true>(block, rows, panels);
                else
                    multiply<false>(block, rows, panels);
                finish(row, rows, panel, panels);
                panel += panels;
            }
        }
    }

    // Codes are expanded all at once if more than one block of rows needs them.
    TileBlock operands(std::int64_t first, std::int64_t last) const {
        TileBlock block{};
        block.a_stride = args_.in.stride * 2;
        block.num_inputs = w_.padded_in();
        block.b = w_.data + first * w_.bytes_per_panel();
        block.b_stride = w_.bytes_per_panel();
        block.sums = sums_;
        if (w_.format != Format::int8) return block;
        if (!has_many_rows()) {
            block.expanded = expanded_;
            return block;
        }
        const std::int64_t stride = panel_bytes(Format::bf16, block.num_inputs);
        for (std::int64_t i = 0; i < last - first; ++i)
            expand<PairWords, ReadPairs<PairWords, Int8Pairs>>(
                block.b + i * block.b_stride, block.num_inputs, expanded_ + i * stride);
        block.b = expanded_;
        block.b_stride = stride;
        return block;
    }

    template <bool kAgain>
    static void multiply(const TileBlock& block, std::int64_t rows, std::int64_t panels) {
        if (rows > kTileRows)
            block_sums<Tiles, 2, 1, kAgain>(block);
        else if (panels == 2)
            block_sums<Tiles, 1, 2, kAgain>(block);
        else
            block_sums<Tiles, 1, 1, kAgain>(block);
    }

    void finish(std::int64_t row, std::int64_t rows, std::int64_t panel, std::int64_t panels) {
        for (std::int64_t i = 0; i < panels; ++i)
            for (std::int64_t r = 0; r < rows; ++r)
                finish_row(args_, panel + i, row + r, sums_ + (i * kTileRows + r) * kPanel);
    }

    // A few rows: each panel's own weights, and at its end those of the panel a group further on.
    Ahead own_stream(std::int64_t panel, std::int64_t group_size) const {
        const std::int64_t bytes = w_.bytes_per_panel();
        const std::byte* data = w_.data + panel * bytes;
        return {data + kTilesAhead, data + bytes, bytes / (w_.padded_in() / kDotInputs),
                (group_size - 1) * bytes};
    }

    // Many rows: a turn's share of the next group.
    Ahead next_group(std::int64_t panel, std::int64_t bytes, std::int64_t turn,
                     std::int64_t num_turns) const {
        const std::int64_t share = bytes / num_turns;
        return {w_.data + panel * w_.bytes_per_panel() + turn * share, nullptr,
                share / (w_.padded_in() / kDotInputs), 0};
    }

    const LinearArgs& args_;
    const Weights& w_;
    float* sums_;
    std::byte* expanded_;
    TileShapes<Tiles> shapes_;
};

template <class Tiles>
void linear_on_tiles(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                     float* scratch) {
    if (args.weights->format == Format::bf16 || args.weights->format == Format::int8)
        TileLinear<Tiles>(args, scratch).run(first_panel, last_panel);
    else
        linear(args, first_panel, last_panel, scratch);
}

}  // namespace kept::KEPT_NS
