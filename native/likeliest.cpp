#include "likeliest.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace kept {
namespace {

constexpr float kLeast = -std::numeric_limits<float>::infinity();
constexpr std::int64_t kLanes = 16, kBlock = 64;

float penalised(float score, float penalty) {
    return score < 0.0f ? score * penalty : score / penalty;
}

float highest_of(const float* scores, std::int64_t count) {
    float highest[kLanes];
    std::fill_n(highest, kLanes, kLeast);
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        for (std::int64_t lane = 0; lane < kLanes; ++lane)
            highest[lane] = scores[i + lane] > highest[lane] ? scores[i + lane] : highest[lane];
    float peak = *std::max_element(highest, highest + kLanes);
    for (; i < count; ++i) peak = std::max(peak, scores[i]);
    return peak;
}

bool any_of(const bool* flags, std::int64_t count) {
    return std::memchr(flags, 1, static_cast<std::size_t>(count)) != nullptr;
}

// A block of a row's scores, once penalties and masks are put to it: most blocks stay as they are.
class Blocks {
  public:
    explicit Blocks(const LikeliestArgs& args) : args_(args) {}

    // The scores from a token on (count); good until the next call.
    const float* scores(std::int64_t begin, std::int64_t count) {
        const bool* seen = args_.seen ? args_.seen + begin : nullptr;
        const bool repels = seen && any_of(seen, count), masks = args_.words && !all(begin, count);
        if (!repels && !masks) return args_.row + begin;
        std::copy_n(args_.row + begin, count, changed_.data());
        for (std::int64_t i = 0; repels && i < count; ++i)
            if (seen[i]) changed_[at(i)] = penalised(changed_[at(i)], args_.penalty);
        for (std::int64_t i = 0; masks && i < count; ++i)
            if (!(word(begin + i) >> (begin + i) % 32 & 1)) changed_[at(i)] = kLeast;
        return changed_.data();
    }

    bool is_forbidden(std::int64_t begin, std::int64_t count) const {
        if (!args_.words) return false;
        for (std::int64_t i = 0; i < count; i += 32)
            if (word(begin + i)) return false;
        return true;
    }

  private:
    static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

    std::uint32_t word(std::int64_t token) const {
        return token / 32 < args_.num_words ? args_.words[token / 32] : 0;
    }

    bool all(std::int64_t begin, std::int64_t count) const {
        for (std::int64_t i = 0; i < count; i += 32)
            if (word(begin + i) != ~std::uint32_t{0}) return false;
        return true;
    }

    const LikeliestArgs& args_;
    std::array<float, kBlock> changed_;
};

}  // namespace

std::int64_t likeliest_of_row(const LikeliestArgs& args) {
    Blocks blocks(args);
    float peak = kLeast;
    std::int64_t first = 0;
    for (std::int64_t begin = 0; begin < args.size; begin += kBlock) {
        const std::int64_t count = std::min(kBlock, args.size - begin);
        if (blocks.is_forbidden(begin, count)) continue;
        const float found = highest_of(blocks.scores(begin, count), count);
        if (found > peak) peak = found, first = begin;
    }
    if (!std::isfinite(peak)) return -1;
    const std::int64_t count = std::min(kBlock, args.size - first);
    const float* scores = blocks.scores(first, count);
    return first + (std::find(scores, scores + count, peak) - scores);
}

}  // namespace kept
