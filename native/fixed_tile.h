// The micro-kernel for rows of 16 bits (fixed_rows.h): a few of them times one panel of weights of
// 4 bits.
//
// Products are summed in int32 over a group of 32 inputs, exactly and so in any order: at most 32 *
// 255 * 32640, and 2^24 when what weights are too large by is taken away. So a float times the unit
// holds it exactly, and what follows is one chain of fused multiply-adds in fp32 for each output:
//
//   sum = 0;  for each group in ascending order:  sum = fma(float(group's sum) * unit, scale, sum)
#pragma once

#include "code_tile.h"
#include "fixed_rows.h"

namespace kept::KEPT_NS {

constexpr int kStepPairs = 4;  // of inputs, in a step of nibbles
constexpr int kGroupSteps = kGroup / (2 * kStepPairs);
constexpr int kWordsStep = kStepPairs * NV * kWordVectorBytes;  // of words made beforehand

// Rows of a tile, whose sums registers hold beside operands. Two turns of AVX-512 are 16 rows.
constexpr int kFixedRows = W == 16 ? 8 : kMaxRows;

// A stretch of a panel's inputs: whole groups.
struct FixedTileArgs {
    const std::byte* b;         // nibbles, or their words
    const std::uint8_t* table;  // of what the nibbles stand for
    FixedRows a;
    std::int64_t first_row, first_group, num_groups;
    float* c;     // (rows, 32) sums
    bool resume;  // go on from what c holds
    const std::byte* ahead;
    std::int64_t ahead_stride;    // bytes a step
    const std::uint16_t* scales;  // of the panel's first group, 32 a group
    bool halves;                  // fp16 ones, or bf16
    std::byte* kept;              // where words are kept, if they are
};

// How a step of weights is read, kStep bytes: as nibbles, which kKeeps keeps as words for more
// rows, or as those.
template <bool kKeeping>
struct ReadNibbles {
    static constexpr int kStep = kStepBytes, kVectors = NV <= 2 ? NV : 1;
    static constexpr bool kMade = false, kKeeps = kKeeping, kShared = kKeeping;
    LevelWords words[kVectors];
    ReadNibbles(const std::byte* p, int first, const std::uint8_t* table)
        : ReadNibbles(p + first * kVectorBytes, table,
                      std::make_index_sequence<static_cast<std::size_t>(kVectors)>()) {}
    KEPT_INLINE Word word(int i, int j) const { return words[j].word(i); }

  private:
    static constexpr int kVectorBytes = kStep / NV;
    template <std::size_t... j>
    ReadNibbles(const std::byte* p, const std::uint8_t* table, std::index_sequence<j...>)
        : words{LevelWords(p + j * kVectorBytes, table)...} {}
};

struct ReadMadeWords {
    static constexpr int kStep = kWordsStep, kVectors = NV;
    static constexpr bool kMade = true, kKeeps = false;
    const std::byte* at;
    ReadMadeWords(const std::byte* p, int, const std::uint8_t*) : at(p) {}
    KEPT_INLINE Word word(int i, int j) const {
        return load_word(at + (i * NV + j) * kWordVectorBytes);
    }
};

constexpr std::int64_t kSoon = 1024;  // bytes of what the second cache holds

// What one tile alone reads comes as in code_tile.h. While several read the same, they fetch into
// the second cache what comes after it: the nearest is for what they share, and would lose the rest
// before its turn.
template <class Read>
KEPT_INLINE void prefetch_fixed(const std::byte* b, const std::byte* ahead) {
    if constexpr (Read::kMade) {
        prefetch_outer(ahead);
    } else if constexpr (Read::kKeeps) {
        prefetch_near(b + kSoon);
        prefetch_near(b + kSoon + 64);
        prefetch_outer(ahead);
    } else {
        prefetch_codes<Read>(ahead);
    }
}

// One step's products. a: the first row's numbers. Vectors go one after the other where registers
// do not hold the levels of all beside the sums.
template <class Read, int kRows>
KEPT_INLINE void add_fixed_step(const std::byte* b, const std::uint8_t* table,
                                const std::int16_t* a, std::int64_t a_stride, std::byte* kept,
                                vi sums[kRows][NV]) {
    constexpr int kTogether = Read::kVectors;
    for_each_of<NV / kTogether>([&](auto turn) __attribute__((always_inline)) {
        const Read read(b, turn * kTogether, table);
        for_each_of<kStepPairs>([&](auto i) __attribute__((always_inline)) {
            Word w[kTogether];
            for_each_of<kTogether>([&](auto j) __attribute__((always_inline)) {
                w[j] = read.word(i, j);
                if constexpr (Read::kKeeps)
                    store_word(kept + (i * NV + turn * kTogether + j) * kWordVectorBytes, w[j]);
            });
            for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
                const Two x(a + r * a_stride + 2 * i);
                for_each_of<kTogether>([&](auto j) __attribute__((always_inline)) {
                    vi& sum = sums[r][turn * kTogether + j];
                    sum = dot(sum, w[j], x);
                });
            });
        });
    });
}

template <class Read, int kRows>
void fixed_tile(const FixedTileArgs& t) {
    const std::int64_t stride = t.a.stride();
    const std::int16_t* codes = t.a.codes(t.first_row) + t.first_group * kGroup;
    const float* units = t.a.units(t.first_row) + t.first_group;
    const std::int32_t* starts = t.a.starts(t.first_row) + t.first_group;
    const std::uint16_t* scales = t.scales + t.first_group * kPanel;
    const std::byte *b = t.b, *ahead = t.ahead;
    std::byte* kept = t.kept;
    if (!t.resume) std::fill_n(t.c, kRows * kPanel, 0.0f);
    for (std::int64_t group = 0; group < t.num_groups; ++group) {
        prefetch_near(scales + kScalesAhead * kPanel);
        vi sums[kRows][NV];
        for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
            const vi begin = set1_whole(starts[group + r * (stride / 4)]);
            for_each_of<NV>([&](auto v) __attribute__((always_inline)) { sums[r][v] = begin; });
        });
        for_each_of<kGroupSteps>([&](auto) __attribute__((always_inline)) {
            prefetch_fixed<Read>(b, ahead);
            add_fixed_step<Read, kRows>(b, t.table, codes, stride / 2, kept, sums);
            b += Read::kStep, ahead += t.ahead_stride, codes += 2 * kStepPairs;
            if constexpr (Read::kKeeps) kept += kWordsStep;
        });
        for_each_of<NV>([&](auto v) __attribute__((always_inline)) {
            const vf own = t.halves ? load_fp16(scales + v * W) : load_bf16(scales + v * W);
            for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
                float* c = t.c + r * kPanel + v * W;
                const vf unit = set1(units[group + r * (stride / 4)]);
                store(c, fma(mul(to_float(sums[r][v]), unit), own, load(c)));
            });
        });
        scales += kPanel;
    }
}

}  // namespace kept::KEPT_NS
