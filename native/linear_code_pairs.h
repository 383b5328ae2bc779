// linear_codes() of several rows where an instruction multiplies two of them by two columns:
//
//   sums (2 rows, 2 columns) int32  +=  a (2 rows, 8 inputs)  times  b (2 columns, 8 inputs)
//
// Sums of whole numbers are exact, and what follows is the chain of code_tile.h: the same bits.
// Rows go four at a time over half a panel, whose 16 vectors of sums stay in registers.
#pragma once

#include "linear_codes.h"

namespace kept::KEPT_NS {

constexpr int kPairRows = 4;       // of a turn
constexpr int kHalf = kPanel / 2;  // columns
constexpr int kEight = 8;          // inputs of one instruction
constexpr int kEightBytes = kEight * kHalf;
static_assert(W == 4 && kGroup % kEight == 0 && kCodeGroup % kEight == 0);

struct PairTileArgs {
    const std::byte* b;  // (halves, eights of inputs, columns / 2, 2 columns, 8 inputs)
    CodeRows a;
    std::int64_t first_row, rows, first_input, num_inputs;
    float* c;     // (rows, 32) sums
    bool resume;  // go on from what c holds
    const std::byte* ahead;
    std::int64_t ahead_stride;    // bytes an eight of inputs
    const std::uint16_t* scales;  // of the panel's first group, 32 a group, where there are any
};

// Two rows' eight inputs each.
inline int8x16_t two_rows(const std::int8_t* first, const std::int8_t* second) {
    return vcombine_s8(vld1_s8(first), vld1_s8(second));
}

// What two rows by two pairs of columns have come to, a row's four columns together.
inline vf row_of(int32x4_t left, int32x4_t right, bool second) {
    const int64x2_t x = vreinterpretq_s64_s32(left), y = vreinterpretq_s64_s32(right);
    return to_float(vreinterpretq_s32_s64(second ? vzip2q_s64(x, y) : vzip1q_s64(x, y)));
}

// One span of half a panel.
template <int kPairs>
KEPT_INLINE void add_pairs(const std::byte* b, const std::int8_t* const* a, std::int64_t first,
                           std::int64_t count, int32x4_t sums[kPairs][kHalf / 2]) {
    for (std::int64_t i = first; i < first + count; i += kEight, b += kEightBytes) {
        int8x16_t x[kPairs];
        for_each_of<kPairs>([&](auto p) __attribute__((always_inline)) {
            x[p] = two_rows(a[2 * p] + i, a[2 * p + 1] + i);
        });
        for_each_of<kHalf / 2>([&](auto v) __attribute__((always_inline)) {
            const int8x16_t w = load_quads(b + v * 16).x;
            for_each_of<kPairs>([&](auto p) __attribute__((always_inline)) {
                sums[p][v] = vmmlaq_s32(sums[p][v], x[p], w);
            });
        });
    }
}

template <GroupScales kScales, int kPairs>
void pair_tile(const PairTileArgs& t) {
    constexpr std::int64_t kSpan = kScales != GroupScales::none ? kGroup : kCodeGroup;
    constexpr int kRows = 2 * kPairs;
    const std::int8_t* a[kRows];
    const float* row_scales[kRows];
    for (int r = 0; r < kRows; ++r) {  // an odd one comes twice
        const std::int64_t row = t.first_row + std::min<std::int64_t>(r, t.rows - 1);
        a[r] = t.a.codes(row), row_scales[r] = t.a.scales(row);
    }
    if (!t.resume) std::fill_n(t.c, t.rows * kPanel, 0.0f);
    const std::byte *b = t.b, *ahead = t.ahead;
    for (int half = 0; half < 2; ++half)
        for (std::int64_t at = 0; at < t.num_inputs; at += kSpan) {
            const std::int64_t input = t.first_input + at;
            const std::int64_t count = std::min(kSpan, t.num_inputs - at);
            for (std::int64_t i = 0; i < count; i += kEight, ahead += t.ahead_stride) {
                prefetch_near(ahead);
                prefetch_near(ahead + 64);
            }
            int32x4_t sums[kPairs][kHalf / 2] = {};
            add_pairs<kPairs>(b, a, input, count, sums);
            b += count / kEight * kEightBytes;
            for_each_of<kHalf / W>([&](auto v) __attribute__((always_inline)) {
                const std::int64_t column = half * kHalf + v * W;
                const vf own = scales_or_zero<kScales>(t.scales + input / kGroup * kPanel + column);
                for_each_of<kRows>([&](auto r) __attribute__((always_inline)) {
                    if (r >= t.rows) return;
                    vf x = row_of(sums[r / 2][2 * v], sums[r / 2][2 * v + 1], r % 2);
                    if constexpr (kScales != GroupScales::none) x = mul(x, own);
                    float* c = t.c + r * kPanel + column;
                    store(c, fused(x, set1(row_scales[r][input / kCodeGroup]), load(c)));
                });
            });
        }
}

// Columns of a stretch of a panel's inputs, two together.
template <class Read>
void make_pairs(const std::byte* p, std::int64_t num_inputs, std::byte* out) {
    const std::int64_t half_bytes = num_inputs / kEight * kEightBytes;
    for (std::int64_t k = 0; k < num_inputs; k += kEight, out += kEightBytes)
        for (std::int64_t v = 0; v < NV; ++v) {
            const auto quads = [&](int i) {  // inputs 4 i to 4 i + 3 of four columns
                const std::int64_t step = (k + 4 * i) / (4 * Read::kUnits);
                const typename Read::Codes codes(p + step * Read::kStep + v * (Read::kStep / NV));
                return vreinterpretq_s32_s8(codes.unit(i % Read::kUnits).x);
            };
            const int32x4_t low = quads(0), high = quads(1);
            std::byte* to = out + v / (NV / 2) * half_bytes + v % (NV / 2) * 32;
            store_quads(to, {vreinterpretq_s8_s32(vzip1q_s32(low, high))});
            store_quads(to + 16, {vreinterpretq_s8_s32(vzip2q_s32(low, high))});
        }
}

template <class Read, GroupScales kScales>
void pair_sums(const LinearArgs& args, std::int64_t panel, float* sums, std::byte* made) {
    const Weights& w = *args.weights;
    const std::int64_t inputs = w.padded_in();
    const std::int64_t num_turns = (args.rows + kPairRows - 1) / kPairRows;
    for (std::int64_t k = 0; k < inputs; k += kCodeSlice) {
        const std::int64_t count = std::min(inputs - k, kCodeSlice);
        const std::byte* b =
            w.data + panel * w.bytes_per_panel() + k / step_inputs(w.format) * kStepBytes;
        const std::int64_t bytes = panel_bytes(w.format, count);
        make_pairs<Read>(b, count, made);
        for (std::int64_t turn = 0; turn < num_turns; ++turn) {
            const std::int64_t first = turn * kPairRows;
            const PairTileArgs t{
                made, args.codes, first, std::min<std::int64_t>(kPairRows, args.rows - first), k,
                count, sums + first * kPanel, k > 0,
                // Each turn fetches its share of what comes next, so that memory is never idle.
                b + bytes + bytes * turn / num_turns, bytes / num_turns / (2 * count / kEight),
                is_grouped(w.format) ? w.group_scales + panel * w.num_groups() * kPanel : nullptr};
            if (t.rows > 2)
                pair_tile<kScales, 2>(t);
            else
                pair_tile<kScales, 1>(t);
        }
    }
}

inline void linear_on_pairs(const LinearArgs& args, std::int64_t first_panel,
                            std::int64_t last_panel, float* scratch) {
    if (args.rows < 2) return linear_codes(args, first_panel, last_panel, scratch);
    auto* made = reinterpret_cast<std::byte*>(scratch);
    float* sums = scratch + kSliceInputs * kPanel / 2;
    for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
        with_code_format(args.weights->format, [&]<class Read, GroupScales kScales>() {
            pair_sums<Read, kScales>(args, panel, sums, made);
        });
        for (std::int64_t row = 0; row < args.rows; ++row)
            finish_row(args, panel, row, sums + row * kPanel);
    }
    settle_stores();
}

}  // namespace kept::KEPT_NS
