#include "routes.h"

#include <algorithm>
#include <cmath>

namespace kept {
namespace {

// Whether score a comes before b: NaN before any number, then the higher.
bool is_higher(float a, float b) {
    return a > b || (a != a && b == b);
}

// Puts the experts of the highest scores into `best`, the highest first.
void find_best(const float* scores, const Routing& routing, std::int32_t* best) {
    std::int64_t count = 0;
    for (std::int32_t expert = 0; expert < routing.num_experts; ++expert) {
        if (count == routing.top_k && !is_higher(scores[expert], scores[best[count - 1]])) continue;
        std::int64_t at = count < routing.top_k ? count++ : count - 1;
        for (; at > 0 && is_higher(scores[expert], scores[best[at - 1]]); --at)
            best[at] = best[at - 1];
        best[at] = expert;
    }
}

float exp_above(float score, float most) {
    return std::exp(score - most);
}

}  // namespace

void Routes::reserve(const Routing& routing, std::int64_t rows) {
    top_k_ = std::max(top_k_, routing.top_k);
    const auto grow = [](auto& numbers, std::int64_t count) {
        if (numbers.size() < static_cast<std::size_t>(count))
            numbers.resize(static_cast<std::size_t>(count));
    };
    grow(experts_, rows * top_k_);
    grow(slots_, rows * top_k_);
    grow(rows_, rows * top_k_);
    grow(weights_, rows * (top_k_ + 1));
    grow(next_, routing.num_experts);
    chosen_.reserve(static_cast<std::size_t>(routing.num_experts));
}

void Routes::choose(const Routing& routing, const float* scores, std::int64_t stride,
                    std::int64_t first_row, std::int64_t last_row) {
    for (std::int64_t row = first_row; row < last_row; ++row) {
        const float* const own = scores + row * stride;
        std::int32_t* const best = experts_.data() + row * top_k_;
        float* const weights = weights_.data() + row * (top_k_ + 1);
        find_best(own, routing, best);
        const float most = own[best[0]];
        std::sort(best, best + routing.top_k);
        float sum = 0;
        for (std::int64_t i = 0; i < routing.top_k; ++i) {
            weights[i] = exp_above(own[best[i]], most);
            sum += weights[i];
        }
        if (!routing.normalised) {
            sum = 0;
            for (std::int64_t i = 0; i < routing.num_experts; ++i) sum += exp_above(own[i], most);
        }
        for (std::int64_t i = 0; i < routing.top_k; ++i) weights[i] /= sum;
        if (routing.is_shared)
            weights[routing.top_k] = 1.0f / (1.0f + std::exp(-own[routing.num_experts]));
    }
}

void Routes::group(const Routing& routing, std::int64_t rows) {
    std::fill_n(next_.begin(), routing.num_experts, 0);
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t i = 0; i < routing.top_k; ++i)
            ++next_[static_cast<std::size_t>(experts_[row * top_k_ + i])];
    chosen_.clear();
    std::int32_t first = 0;
    for (std::int64_t expert = 0; expert < routing.num_experts; ++expert) {
        std::int32_t& next = next_[static_cast<std::size_t>(expert)];
        const std::int32_t count = next;
        next = first;
        if (count > 0) chosen_.push_back({expert, first, count});
        first += count;
    }
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t i = 0; i < routing.top_k; ++i) {
            const auto at = static_cast<std::size_t>(row * top_k_ + i);
            slots_[at] = next_[static_cast<std::size_t>(experts_[at])]++;
            rows_[static_cast<std::size_t>(slots_[at])] = static_cast<std::int32_t>(row);
        }
}

}  // namespace kept
