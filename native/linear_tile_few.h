// Up to 16 rows times one or two panels on matrix tiles, whose weights come straight from memory.
//
//   sums 0 1 2 3 | 4 rows        5 6 7 weights in turn: two tiles of 16 outputs a panel
//
// Codes become bf16 between the products of the 32 inputs before theirs, a quarter of them behind
// each, so that neither tiles nor vectors nor memory wait for one another.
#pragma once

#include <utility>

#include "linear_tile_parts.h"

namespace kept::KEPT_NS {

// Bytes of a panel's own weights that are fetched ahead: to the nearest cache, and to the outer one
// before, as each line on its way to the nearest waits in one of its few buffers.
constexpr std::int64_t kTilesNear = 2048, kTilesOuter = 6144;

// A panel's own weights, some lines at a time, of which a panel has a multiple; at its end those of
// the panel that comes `jump` bytes behind it.
class OwnStream {
  public:
    OwnStream() = default;
    OwnStream(const std::byte* begin, std::int64_t bytes, std::int64_t jump)
        : end_(begin + bytes),
          jump_(jump),
          near_(from(begin + kTilesNear)),
          outer_(from(begin + kTilesOuter)) {}

    // Line i of the next ones; and to those behind them.
    KEPT_INLINE void fetch(int i) const {
        prefetch_near(near_ + 64 * i);
        prefetch_outer(outer_ + 64 * i);
    }
    KEPT_INLINE void pass(int lines) {
        near_ = from(near_ + 64 * lines);
        outer_ = from(outer_ + 64 * lines);
    }

  private:
    // Past the end no pointer comes to it again.
    const std::byte* from(const std::byte* p) const { return p == end_ ? p + jump_ : p; }

    const std::byte* end_ = nullptr;
    std::int64_t jump_ = 0;
    const std::byte *near_ = nullptr, *outer_ = nullptr;
};

// Up to 16 rows, one or two panels, and where their sums go: (panels, 16, 32).
struct FewRows {
    const std::byte* a;
    std::int64_t a_stride;  // bytes between rows
    std::int64_t num_inputs;
    const std::byte* b;
    std::int64_t b_stride;  // bytes between panels
    std::byte* expanded;    // room for the codes of twice 32 inputs of both panels
    float* sums;
};

// Writes 16 columns of 32 inputs, the first or the second half of a panel's, as bf16.
template <class Read>
KEPT_INLINE void expand_half(const std::byte* p, int half, std::byte* out, OwnStream& ahead) {
    constexpr int kHalf = NV / 2;
    KEPT_UNROLL_ALL
    for (int k = 0; k < kDotInputs; k += Read::kInputs, p += kStepBytes) {
        KEPT_UNROLL_ALL
        for (int v = 0; v < kHalf; ++v) {
            const std::int64_t at = (half * kHalf + v) * W * kWordBytes;
            const Read read(p + at);
            KEPT_UNROLL_ALL
            for (int i = 0; i < Read::kWords; ++i)
                PairWords::write(out + (k / PairWords::kInputs + i) * kStepBytes + at,
                                 read.word(i));
        }
        ahead.fetch(k / Read::kInputs);
    }
    ahead.pass(kDotInputs / Read::kInputs);
}

template <class Tiles, int kPanels, Format kFormat>
void few_sums(const FewRows& x) {
    using Read = ReadPairs<PairWords, Int8Pairs>;
    static_assert(kFormat == Format::bf16 || kFormat == Format::int8);
    constexpr int kColumns = 2 * kPanels, kA = 4, kB = 5, kNumB = kNumTiles - kB;
    constexpr bool kExpands = kFormat == Format::int8;
    constexpr std::int64_t kBytes = kDotInputs / step_inputs(kFormat) * kStepBytes;
    constexpr int kLines = kBytes / 2 / 64;  // of a half
    static_assert(kLines == kDotInputs / Read::kInputs || !kExpands);
    const std::byte *a = x.a, *b[kPanels];
    std::byte *now = x.expanded, *next = x.expanded + kPanels * kDotBytes;
    OwnStream ahead[kPanels];
    for (int panel = 0; panel < kPanels; ++panel) {
        b[panel] = x.b + panel * x.b_stride;
        ahead[panel] = {b[panel], x.b_stride, (kPanels - 1) * x.b_stride};
    }
    const auto expand_column = [&]<int j>(std::byte* out) __attribute__((always_inline)) {
        expand_half<Read>(b[j / 2], j % 2, out + j / 2 * kDotBytes, ahead[j / 2]);
    };
    for_constants<kColumns>([]<int t>() { Tiles::template zero<t>(); });
    if constexpr (kExpands)
        for_constants<kColumns>([&]<int j>() { expand_column.template operator()<j>(now); });
    for (std::int64_t left = x.num_inputs; left > 0; left -= kDotInputs) {
        Tiles::template load<kA>(a, x.a_stride);
        a += kDotInputs * 2;
        for (int panel = 0; kExpands && panel < kPanels; ++panel) b[panel] += kBytes;
        for_constants<kColumns>([&]<int j>() {
            constexpr int kThis = kB + j % kNumB;
            const std::byte* from = kExpands ? now + j / 2 * kDotBytes : b[j / 2];
            Tiles::template load<kThis>(from + j % 2 * kTileRowBytes, kStepBytes);
            Tiles::template dot<j, kA, kThis>();
            if constexpr (!kExpands) {
                KEPT_UNROLL_ALL
                for (int i = 0; i < kLines; ++i) ahead[j / 2].fetch(i);
                ahead[j / 2].pass(kLines);
            } else if (left > kDotInputs) {
                expand_column.template operator()<j>(next);
            }
        });
        for (int panel = 0; !kExpands && panel < kPanels; ++panel) b[panel] += kBytes;
        std::swap(now, next);
    }
    for_constants<kColumns>([&]<int t>() {
        Tiles::template store<t>(x.sums + t / 2 * kTileRows * kPanel + t % 2 * 16, kPanel * 4);
    });
}

// Panels [first, last) times up to 16 rows.
template <class Tiles>
class FewLinear {
  public:
    FewLinear(const LinearArgs& args, float* scratch)
        : args_(args), w_(*args.weights), scratch_(scratch, 0) {}

    void run(std::int64_t first, std::int64_t last) {
        static_assert(2 * 2 * kDotInputs <= kTileSlice, "in scratch");
        for (std::int64_t panel = first; panel < last; panel += 2) {
            const std::int64_t panels = std::min<std::int64_t>(2, last - panel);
            if (w_.format == Format::int8)
                multiply<Format::int8>(panel, panels);
            else
                multiply<Format::bf16>(panel, panels);
            for (std::int64_t i = 0; i < panels; ++i)
                for (std::int64_t r = 0; r < args_.rows; ++r)
                    finish_row(args_, panel + i, r, scratch_.sums + (i * kTileRows + r) * kPanel);
        }
    }

  private:
    template <Format kFormat>
    void multiply(std::int64_t panel, std::int64_t panels) {
        const std::int64_t bytes = w_.bytes_per_panel();
        const FewRows x{static_cast<const std::byte*>(args_.in.data),
                        args_.in.stride * 2,
                        w_.padded_in(),
                        w_.data + panel * bytes,
                        bytes,
                        scratch_.expanded,
                        scratch_.sums};
        if (panels == 2)
            few_sums<Tiles, 2, kFormat>(x);
        else
            few_sums<Tiles, 1, kFormat>(x);
    }

    const LinearArgs& args_;
    const Weights& w_;
    const TileScratch scratch_;
};

}  // namespace kept::KEPT_NS
