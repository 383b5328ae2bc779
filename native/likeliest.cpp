#include "likeliest.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace kept {
namespace {

constexpr float kLeast = -std::numeric_limits<float>::infinity();
constexpr std::int64_t kLanes = 16;

// Once for each, so that a compiler puts the loop below into vectors.
struct AsTheyAre {
    const float* row;
    float operator()(std::int64_t i) const { return row[i]; }
};

struct Penalised {
    const float* row;
    const bool* seen;
    float penalty;
    float operator()(std::int64_t i) const {
        const float lower = row[i] < 0.0f ? row[i] * penalty : row[i] / penalty;
        return seen[i] ? lower : row[i];
    }
};

template <typename Score>
std::int64_t first_highest(const Score& score, std::int64_t size) {
    std::array<float, kLanes> highest;
    highest.fill(kLeast);
    std::int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes)
        for (std::int64_t lane = 0; lane < kLanes; ++lane) {
            const float found = score(i + lane), before = highest[static_cast<std::size_t>(lane)];
            highest[static_cast<std::size_t>(lane)] = found > before ? found : before;
        }
    float peak = *std::ranges::max_element(highest);
    for (; i < size; ++i) peak = std::max(peak, score(i));
    if (!std::isfinite(peak)) return -1;
    for (i = 0; score(i) != peak; ++i) {
    }
    return i;
}

template <typename Score>
std::int64_t first_highest_allowed(const Score& score, const LikeliestArgs& args) {
    float peak = kLeast;
    std::int64_t first = -1;
    const std::int64_t count = std::min(args.num_words, (args.size + 31) / 32);
    for (std::int64_t word = 0; word < count; ++word)
        for (std::uint32_t bits = args.words[word]; bits; bits &= bits - 1) {
            const std::int64_t token = 32 * word + std::countr_zero(bits);
            if (token >= args.size) break;
            if (const float found = score(token); found > peak) peak = found, first = token;
        }
    return std::isfinite(peak) ? first : -1;
}

template <typename Score>
std::int64_t likeliest_by(const Score& score, const LikeliestArgs& args) {
    return args.words ? first_highest_allowed(score, args) : first_highest(score, args.size);
}

}  // namespace

std::int64_t likeliest_of_row(const LikeliestArgs& args) {
    if (!args.seen) return likeliest_by(AsTheyAre{args.row}, args);
    return likeliest_by(Penalised{args.row, args.seen, args.penalty}, args);
}

}  // namespace kept
