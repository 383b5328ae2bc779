// linear() on matrix tiles, for bf16 and int8 weights; those of 4 bits go the way of
// linear_tile_grouped.h, and other formats that of linear.h.
//
// Every output element is one chain of dot() over its inputs in ascending order, 32 at a time,
// whether its row comes alone or among others: sums that leave a tile between two of them come back
// as they were. A row's numbers depend on no other row of a tile, so rows can be cut into tiles in
// any way.
//
// Up to 16 rows take two panels at once, whose weights come straight from memory and are prefetched
// as they go:
//
//   sums 0 1 2 3 | 4 rows        5 6 7 weights in turn
#pragma once

#include <algorithm>

#include "linear_tile_grouped.h"

namespace kept::KEPT_NS {

constexpr std::int64_t kStretch = 128;      // inputs whose codes are expanded between two dots
constexpr std::int64_t kTilesAhead = 4096;  // bytes of a panel's own weights
static_assert(2 * kStretch <= kTileSlice, "in scratch");

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

// Up to 16 rows, one or two panels, and where their sums go: (panels, 16, 32).
struct FewRows {
    const std::byte* a;
    std::int64_t a_stride;  // bytes between rows
    std::int64_t num_inputs;
    const std::byte* b;
    std::int64_t b_stride;  // bytes between panels
    std::byte* expanded;    // room for the codes of a stretch of both panels, or null: b is bf16
    Ahead ahead[2];
    float* sums;
};

template <class Tiles, int kPanels>
void few_sums(FewRows x) {
    constexpr int kColumns = 2 * kPanels, kA = 4, kB = 5, kNumB = kNumTiles - kB;
    for_constants<kColumns>([]<int t>() { Tiles::template zero<t>(); });
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
            Tiles::template load<kA>(a, x.a_stride);
            a += kDotInputs * 2;
            for_constants<kColumns>([&]<int j>() {
                constexpr int kThis = kB + j % kNumB;
                Tiles::template load<kThis>(b[j / 2] + j % 2 * kTileRowBytes, kStepBytes);
                Tiles::template dot<j, kA, kThis>();
            });
            KEPT_UNROLL_ALL
            for (int panel = 0; panel < kPanels; ++panel) {
                b[panel] += kDotBytes;
                x.ahead[panel].step();
            }
        }
    }
    for_constants<kColumns>([&]<int t>() {
        Tiles::template store<t>(x.sums + t / 2 * kTileRows * kPanel + t % 2 * 16, kPanel * 4);
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

// Panels [first, last) times up to 16 rows.
template <class Tiles>
class FewLinear {
  public:
    FewLinear(const LinearArgs& args, float* scratch)
        : args_(args), w_(*args.weights), scratch_(scratch, 0) {}

    void run(std::int64_t first, std::int64_t last) {
        FewRows x{};
        x.a = static_cast<const std::byte*>(args_.in.data);
        x.a_stride = args_.in.stride * 2;
        x.num_inputs = w_.padded_in();
        x.b_stride = w_.bytes_per_panel();
        x.expanded = w_.format == Format::int8 ? scratch_.expanded : nullptr;
        x.sums = scratch_.sums;
        for (std::int64_t panel = first; panel < last; panel += 2) {
            const std::int64_t panels = std::min<std::int64_t>(2, last - panel);
            x.b = w_.data + panel * w_.bytes_per_panel();
            for (std::int64_t i = 0; i < panels; ++i) x.ahead[i] = own_stream(panel + i, panels);
            if (panels == 2)
                few_sums<Tiles, 2>(x);
            else
                few_sums<Tiles, 1>(x);
            for (std::int64_t i = 0; i < panels; ++i)
                for (std::int64_t r = 0; r < args_.rows; ++r)
                    finish_row(args_, panel + i, r, x.sums + (i * kTileRows + r) * kPanel);
        }
    }

  private:
    // Each panel's own weights, and at its end those of the panel a pair further on.
    Ahead own_stream(std::int64_t panel, std::int64_t panels) const {
        const std::int64_t bytes = w_.bytes_per_panel();
        const std::byte* data = w_.data + panel * bytes;
        return {data + kTilesAhead, data + bytes, bytes / (w_.padded_in() / kDotInputs),
                (panels - 1) * bytes};
    }

    const LinearArgs& args_;
    const Weights& w_;
    const TileScratch scratch_;
};

template <class Tiles>
void linear_on_tiles(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                     float* scratch) {
    if (is_nibbles(args.weights->format))
        return grouped_on_tiles<Tiles>(args, first_panel, last_panel, scratch);
    if (args.weights->format != Format::bf16 && args.weights->format != Format::int8)
        return linear(args, first_panel, last_panel, scratch);
    if (args.rows == 0 || first_panel == last_panel) return;
    TileShapes<Tiles> shapes;
    if (args.rows <= kTileRows) {
        shapes.use(args.rows);
        FewLinear<Tiles>(args, scratch).run(first_panel, last_panel);
        return;
    }
    const std::int64_t parts = (args.rows + kTileRowsAtOnce - 1) / kTileRowsAtOnce;
    for (std::int64_t i = 0; i < parts; ++i) {
        const std::int64_t first = args.rows * i / parts;
        TileParts<Tiles> part(args, first, args.rows * (i + 1) / parts - first, first_panel,
                              last_panel, scratch);
        shapes.use(part.block_rows());
        part.run();
    }
    settle_stores();
}

}  // namespace kept::KEPT_NS
