// The products of attention over int8 and int4 codes, in whole numbers (wide.h): queries times a
// tile of keys, and its weights times a tile of values.
//
//   queries   rows of wide numbers, each a power of two times a whole number
//   keys      (steps of kWideInputs elements, 64 tokens)
//   weights   rows of 64 wide numbers, for each group of elements that shares a scale
//   values    (steps of kWideInputs tokens, elements), the steps in the order of value_step
//
// Sums are exact, so that neither their order nor who computes them together changes a bit.
#pragma once

#include <type_traits>

#include "tile_codes.h"
#include "wide.h"

namespace kept::KEPT_NS {

constexpr bool is_coded(Codec codec) {
    return codec == Codec::int8 || codec == Codec::int4;
}

// Calls f with a codec of wide.h: that of a tile of codes.
template <class F>
KEPT_INLINE auto with_wide(Codec codec, const F& f) {
    return codec == Codec::int8 ? f(WideInt8{}) : f(WideInt4{});
}

// What sums begin with, so that what is added to codes is taken away.
constexpr std::int32_t start_of(int offset, std::int32_t total) {
    return static_cast<std::int32_t>(0u - static_cast<std::uint32_t>(offset) *
                                              static_cast<std::uint32_t>(total));
}

// The power of two that the whole numbers of a query count: the least by which none is larger than
// `most_wide`. NaN of what is not finite.
inline float wide_step(const float* x, std::int64_t count, float most_wide) {
    vf most = zero();
    bool nan = false;
    for (std::int64_t d = 0; d < count; d += W) {
        nan |= any_nan(load(x + d));
        most = max(most, abs(load(x + d)));
    }
    const float largest = reduce_max(most);
    constexpr float kLimit = std::numeric_limits<float>::max();
    if (nan || largest > kLimit) return std::numeric_limits<float>::quiet_NaN();
    const float least = std::max(largest / most_wide, std::numeric_limits<float>::min());
    return bits_to_float((float_to_bits(least) + 0x7fffffu) & 0x7f800000u);
}

// A query of `padded` floats as a row of wide numbers; in starts[g] what sums over a group begin
// with. Returns what they count.
template <class Code>
float widen_query(const float* x, std::int64_t padded, std::int64_t groups, std::byte* row,
                  std::int32_t* starts) {
    const std::int64_t inputs = padded / groups;
    const float step = wide_step(x, padded, most_wide(inputs));
    const vf inverse = set1(1.0f / step);
    for (std::int64_t g = 0; g < groups; ++g) {
        vi total = wide_set1(0);
        for (std::int64_t d = g * inputs; d < (g + 1) * inputs; d += W) {
            const vi codes = wide_of(mul(load(x + d), inverse));
            put_wide(row, padded, d, ordered(codes, Code::kOrder));
            total = plus(total, codes);
        }
        starts[g] = start_of(Code::kOffset, total_of(total));
    }
    return step;
}

template <class Code>
void expand_wide_keys(const TileRows& from, std::int64_t padded, std::byte* staged,
                      std::byte* out) {
    constexpr std::int64_t kDims = Code::kWords * Code::kInWord;
    const std::byte* copies[kTile];
    const std::int64_t dims = round_up(padded, kDims);
    const std::byte* const* rows = reach<Code>(from, dims, staged, copies);
    for (std::int64_t d = 0; d < dims; d += kDims)
        for (std::int64_t t = 0; t < kTile; t += W) {
            vb words[Code::kWords];
            load_transposed<Code::kWords>(rows + t, d / Code::kInWord * 4, words);
            std::byte* to = out + d / kWideInputs * kKeyStep + t * 4;
            KEPT_UNROLL_ALL
            for (int i = 0; i < Code::kWords; ++i) {
                Code::keys(words[i], to + i * (Code::kInWord / kWideInputs) * kKeyStep);
            }
        }
}

template <class Code>
constexpr std::int64_t value_stride(std::int64_t padded) {
    return round_up(padded, Code::kDims) * 4;
}

template <class Code>
void expand_wide_values(const TileRows& from, std::int64_t padded, std::byte* staged,
                        std::byte* out) {
    const std::byte* copies[kTile];
    const std::int64_t dims = round_up(padded, Code::kDims), stride = value_stride<Code>(padded);
    const std::byte* const* rows = reach<Code>(from, dims, staged, copies);
    for (std::int64_t t = 0; t < kTile; t += kWideInputs)
        for (std::int64_t d = 0; d < dims; d += Code::kDims)
            Code::values(rows + t, d, out + value_step(t) * stride + d * 4);
}

constexpr int num_blocks(int rows, int most) {
    return (rows + most - 1) / most;
}

// Calls run<n>(first) for blocks of n rows, kMost at most and all of about one size.
template <int kMost, class Work>
void by_blocks(int rows, const Work& work) {
    const int blocks = num_blocks(rows, kMost);
    for (int i = 0; i < blocks; ++i) {
        const int begin = rows * i / blocks;
        with_rows<kMost>(rows * (i + 1) / blocks - begin, typename Work::Block{work, begin});
    }
}

// Scores of a turn's queries over a tile's keys: (groups, rows, 64), each of groups of as many
// inputs.
struct ScoreWide {
    const std::byte* keys;
    const std::byte* queries;
    const float* steps;          // (rows)
    const std::int32_t* starts;  // (rows, groups)
    std::int64_t padded, groups;
    int rows;
    float* scores;
    LaterTile& ahead;

    static constexpr int kMost = kWideSums / kWideVectors;

    // Steps of all products of a turn.
    static std::int64_t num_steps(std::int64_t padded, int rows) {
        return num_blocks(rows, kMost) * (kTile / (kWideVectors * W)) * padded / kWideInputs;
    }
    void run() const { by_blocks<kMost>(rows, *this); }

    struct Block {
        const ScoreWide& of;
        int begin;

        template <int kRows>
        void run() const {
            const std::int64_t inputs = of.padded / of.groups, bytes = inputs * 4 / kWideInputs;
            const std::byte* a = of.queries + begin * 2 * of.padded;
            for (std::int64_t g = 0; g < of.groups; ++g, a += bytes)
                for (std::int64_t t = 0; t < kTile; t += kWideVectors * W)
                    columns<kRows>(g, t, a, inputs / kWideInputs);
        }

      private:
        template <int kRows>
        void columns(std::int64_t g, std::int64_t t, const std::byte* a, std::int64_t steps) const {
            vi sums[kRows][kWideVectors];
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                const vi first = wide_set1(of.starts[(begin + r) * of.groups + g]);
                KEPT_UNROLL_ALL
                for (int v = 0; v < kWideVectors; ++v) sums[r][v] = first;
            }
            add_wide<kRows, kWideVectors>(of.keys + g * steps * kKeyStep + t * 4, kKeyStep, a,
                                          2 * of.padded, of.padded, steps, of.ahead, sums);
            float* to = of.scores + (g * of.rows + begin) * kTile + t;
            KEPT_UNROLL_ALL
            for (int r = 0; r < kRows; ++r) {
                const vf step = set1(of.steps[begin + r]);
                KEPT_UNROLL_ALL
                for (int v = 0; v < kWideVectors; ++v)
                    store(to + r * kTile + v * W, mul(floats_of(sums[r][v]), step));
            }
        }
    };
};

// A turn's sums (rows, padded) of values, times `correction` (rows), and this tile's weighed values
// added. Weights (groups, rows), of elements that share a scale.
template <class Code>
struct WeighWide {
    const std::byte* values;
    const std::byte* weights;
    const float* factors;        // (groups, rows) what a whole number counts
    const std::int32_t* starts;  // (groups, rows)
    std::int64_t padded, groups;
    int rows;
    const float* correction;
    float* sums;
    LaterTile& ahead;

    // Vectors within a group of int4, and as many as there are of int8.
    static constexpr int kNarrow = std::min(kWideVectors, kPanel / W);
    static constexpr int kMost = std::is_same_v<Code, WideInt8> ? kWideVectors : kNarrow;

    static std::int64_t num_steps(std::int64_t padded, int rows) {
        return num_blocks(rows, kWideSums / kMost) * padded / (kMost * W) * kTile / kWideInputs;
    }
    void run() const {
        if constexpr (kMost > kNarrow)
            if (padded >= kMost * W) by_blocks<kWideSums / kMost>(rows, Part<kMost>{*this});
        if (end_of_most() < padded) by_blocks<kWideSums / kNarrow>(rows, Part<kNarrow>{*this});
    }

  private:
    std::int64_t end_of_most() const {
        return kMost > kNarrow ? padded / (kMost * W) * (kMost * W) : 0;
    }

    template <int kVectors>
    struct Part {
        const WeighWide& of;

        struct Block {
            const Part& part;
            int begin;

            template <int kRows>
            void run() const {
                const WeighWide& of = part.of;
                const std::int64_t between = of.end_of_most();
                const std::int64_t first = kVectors > kNarrow ? 0 : between;
                const std::int64_t last = kVectors > kNarrow ? between : of.padded;
                for (std::int64_t d = first; d < last; d += kVectors * W)
                    columns<kRows>(of, of.groups > 1 ? d / kPanel : 0, d);
            }

          private:
            template <int kRows>
            void columns(const WeighWide& of, std::int64_t group, std::int64_t d) const {
                const std::int64_t at = group * of.rows + begin,
                                   stride = value_stride<Code>(of.padded);
                vi whole[kRows][kVectors];
                KEPT_UNROLL_ALL
                for (int r = 0; r < kRows; ++r) {
                    const vi from = wide_set1(Code::kOffset ? of.starts[at + r] : 0);
                    KEPT_UNROLL_ALL
                    for (int v = 0; v < kVectors; ++v) whole[r][v] = from;
                }
                add_wide<kRows, kVectors>(of.values + d * 4, stride, of.weights + at * 2 * kTile,
                                          2 * kTile, kTile, kTile / kWideInputs, of.ahead, whole);
                KEPT_UNROLL_ALL
                for (int r = 0; r < kRows; ++r) {
                    float* to = of.sums + (begin + r) * of.padded + d;
                    const vf factor = set1(of.factors[at + r]),
                             before = set1(of.correction[begin + r]);
                    vf x[kVectors];
                    KEPT_UNROLL_ALL
                    for (int v = 0; v < kVectors; ++v) x[v] = floats_of(whole[r][v]);
                    Code::template natural<kVectors>(x);
                    KEPT_UNROLL_ALL
                    for (int v = 0; v < kVectors; ++v)
                        store(to + v * W, fma(x[v], factor, mul(load(to + v * W), before)));
                }
            }
        };
    };
};

}  // namespace kept::KEPT_NS
