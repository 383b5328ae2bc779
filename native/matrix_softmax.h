// A turn's scores from matrix tiles become the weights that go into the next ones: what
// tile_softmax.h does, to the same bits, at once for 16 queries that see all of a tile.
#pragma once

#include <algorithm>

#include "tile_softmax.h"

namespace kept::KEPT_NS {

struct MatrixOperands {
    using Act = std::uint16_t;
    static constexpr bool kPairs = true, kRounds = true, kWide = false;
    static constexpr int kInputs = 2, kKeyInputs = 2;
    // Stores the weights of a tile, and adds them up as they are stored.
    KEPT_INLINE static vf put(Act* to, const vf* p) {
#if defined(__AVX512BF16__)
        // VDPBF16PS with ones takes longer than these.
        const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
        vf total[2] = {zero(), zero()};
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; i += 2) {
            const vb pairs = narrow_pairs(p[i], p[i + 1]);
            store_pairs(to + i * W, pairs);
            total[0] = add(total[0], _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)));
            total[1] = add(total[1], _mm512_castsi512_ps(_mm512_and_si512(pairs, high)));
        }
        return add(total[0], total[1]);
#else
        vf total = zero();
        for (int i = 0; i < kTile / W; ++i) {
            store_bf16(to + i * W, p[i]);
            total = add(total, load_bf16(to + i * W));
        }
        return total;
#endif
    }
};

// Writes the weights of a turn's query `row`; where values have scales, times those, a row for each
// group of elements. Without them the sum is that of the rounded weights, so that rounding does not
// shift the mean.
struct PutPairs {
    const AttendScratch& s;
    int rows;

    KEPT_INLINE vf operator()(TokenSet sees, int row, const vf* p) const {
        if (s.value_groups > 0) return scaled(sees, row, p);
        return MatrixOperands::put(weights(row), p);
    }
    KEPT_INLINE vf scaled(TokenSet sees, int row, const vf* p) const {
        for (std::int64_t g = 0; g < s.value_groups; ++g) {
            vf x[kTile / W];
            KEPT_UNROLL_ALL
            for (int i = 0; i < kTile / W; ++i) {
                x[i] = mul(p[i], load(s.value_scales + g * kTile + i * W));
                if (sees != ~TokenSet{0}) x[i] = select(sees >> i * W, x[i], zero());
            }
            MatrixOperands::put(weights(g * rows + row), x);
        }
        vf total = p[0];
        KEPT_UNROLL_ALL
        for (int i = 1; i < kTile / W; ++i) total = add(total, p[i]);
        return total;
    }
    std::uint16_t* weights(std::int64_t row) const {
        return reinterpret_cast<std::uint16_t*>(s.weights) + row * kTile;
    }
};

// Scores of a turn's queries, from `first` on, become weights in s.weights. correction: (rows) what
// their sums so far are multiplied with. Returns which of those are not 1.
class TurnSoftmax {
  public:
    TurnSoftmax(const AttentionShape& shape, const AttendScratch& s) : shape_(shape), s_(s) {}

    std::uint32_t operator()(float* scores, std::int64_t first, int rows, float* correction) const {
        if (sees_all(first, rows)) {
            const bool scales = s_.value_groups > 0, biased = s_.biases[first].table;
            const auto soften = scales   ? biased ? &TurnSoftmax::soften_all<true, true>
                                                  : &TurnSoftmax::soften_all<true, false>
                                : biased ? &TurnSoftmax::soften_all<false, true>
                                         : &TurnSoftmax::soften_all<false, false>;
            return (this->*soften)(scores, first, rows, correction);
        }
        AttendScratch at = s_;
        at.scores = scores;
        soften<true>(shape_, at, first, rows, correction, PutPairs{s_, rows});
        std::uint32_t moved = 0;
        for (int r = 0; r < rows; ++r) moved |= std::uint32_t{correction[r] != 1.0f} << r;
        return moved;
    }

  private:
    // Of biases by a slope, which take on something else at each token, they are not done at once.
    bool sees_all(std::int64_t first, int rows) const {
        if (W != kTileRows || shape_.softcap > 0) return false;
        for (std::int64_t q = first; q < first + rows; ++q)
            if (s_.sees[q] != ~TokenSet{0} || s_.biases[q].slope != 0) return false;
        return true;
    }

    template <bool kScales, bool kBiased>
    std::uint32_t soften_all(float* scores, std::int64_t first, int rows, float* correction) const {
        constexpr int kVectors = kTile / W;
        vf factors[kVectors], largest[W];
        KEPT_UNROLL_ALL
        for (int i = 0; i < kVectors; ++i) factors[i] = load(s_.key_scales + i * W);
        for (int r = 0; r < rows; ++r) {
            const float* bias = kBiased ? s_.biases[first + r].table : nullptr;
            largest[r] = scale<kBiased>(scores + r * kTile, rows, factors, bias);
        }
        float tops[W], base[W];
        largest_of_rows(largest, rows, tops);
        raise_peaks(s_.state.peak + first, tops, rows, base, correction);
        const PutPairs put{s_, rows};
        float* sums = s_.state.sum + first * W;
        const bool scaled = kBiased || s_.key_groups > 1;
        for (int r = 0; r < rows; ++r, sums += W) {
            const vf down = set1(-base[r]);
            vf p[kVectors];
            KEPT_UNROLL_ALL
            for (int i = 0; i < kVectors; ++i) {
                const vf x = load(scores + r * kTile + i * W);
                p[i] = exp2<true>(scaled ? add(x, down) : fma(x, factors[i], down));
            }
            const vf total =
                kScales ? put.scaled(~TokenSet{0}, r, p) : MatrixOperands::put(put.weights(r), p);
            store(sums, fma(load(sums), set1(correction[r]), total));
        }
        return not_one(correction, rows);
    }

    // The largest of a row's scores, in lanes. Of several groups they are added up, take on a bias
    // (64), and are stored.
    template <bool kBiased>
    KEPT_INLINE vf scale(float* scores, int rows, const vf* factors, const float* bias) const {
        vf top = set1(kNever);
        KEPT_UNROLL_ALL
        for (int i = 0; i < kTile / W; ++i) {
            float* at = scores + i * W;
            vf x = mul(load(at), factors[i]);
            for (std::int64_t g = 1; g < s_.key_groups; ++g)
                x = fma(load(at + g * rows * kTile), load(s_.key_scales + g * kTile + i * W), x);
            if constexpr (kBiased) x = fma(load(bias + i * W), set1(kLog2E), x);
            if (kBiased || s_.key_groups > 1) store(at, x);
            top = max(top, x);
        }
        return top;
    }

    static std::uint32_t not_one(const float* correction, int rows) {
        std::uint32_t moved = 0;
#if defined(__AVX512F__)
        moved = _mm512_cmp_ps_mask(load(correction), set1(1.0f), _CMP_NEQ_UQ);
#else
        for (int r = 0; r < rows; ++r) moved |= std::uint32_t{correction[r] != 1.0f} << r;
#endif
        return moved & ((std::uint32_t{1} << rows) - 1);
    }

    const AttentionShape& shape_;
    const AttendScratch& s_;
};

}  // namespace kept::KEPT_NS
