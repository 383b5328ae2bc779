#include "routes.h"

#include <algorithm>
#include <cmath>

namespace kept {
namespace {

// Whether score a comes before b: NaN before any number, then the higher.
bool is_higher(float a, float b) {
    return a > b || (a != a && b == b);
}

// The highest so many of scores, the highest first, of equal ones the first.
class Highest {
  public:
    Highest(const float* scores, std::int64_t most, std::int32_t* best)
        : scores_(scores), most_(most), best_(best) {}

    void offer(std::int32_t index) {
        const float score = scores_[index];
        if (count_ == most_ && !is_higher(score, scores_[best_[count_ - 1]])) return;
        std::int64_t at = count_ < most_ ? count_++ : count_ - 1;
        for (; at > 0 && is_higher(score, scores_[best_[at - 1]]); --at) best_[at] = best_[at - 1];
        best_[at] = index;
    }

  private:
    const float* scores_;
    std::int64_t most_, count_ = 0;
    std::int32_t* best_;
};

float sigmoid_of(float x) {
    return 1.0f / (1.0f + std::exp(-x));
}

// The sum of a group's highest scores.
float score_group(const Routing& routing, const float* choice, std::int64_t group) {
    std::int32_t best[kMostGroupBest];
    Highest highest(choice, routing.group_best, best);
    const std::int64_t first = group * routing.group_size();
    for (std::int64_t i = first; i < first + routing.group_size(); ++i)
        highest.offer(static_cast<std::int32_t>(i));
    float sum = 0;
    for (std::int64_t i = 0; i < routing.group_best; ++i) sum += choice[best[i]];
    return sum;
}

// Puts the experts of the highest scores into `best`, of the best groups.
void find_best(const float* scores, const Routing& routing, float* scratch, std::int32_t* best) {
    const float* choice = scores;
    if (routing.sigmoid) {
        for (std::int64_t i = 0; i < routing.num_experts; ++i)
            scratch[i] = sigmoid_of(scores[i]) + (routing.bias ? routing.bias[i] : 0.0f);
        choice = scratch;
    }
    float* const groups = scratch + routing.num_experts;
    for (std::int64_t g = 0; routing.num_groups > 1 && g < routing.num_groups; ++g)
        groups[g] = score_group(routing, choice, g);
    Highest highest(choice, routing.top_k, best);
    for (std::int64_t g = 0; g < routing.num_groups; ++g) {
        if (routing.num_groups > 1) {
            std::int64_t better = 0;
            for (std::int64_t other = 0; other < routing.num_groups; ++other)
                better += is_higher(groups[other], groups[g]) ||
                          (other < g && !is_higher(groups[g], groups[other]));
            if (better >= routing.top_groups) continue;
        }
        const std::int64_t first = g * routing.group_size();
        for (std::int64_t i = first; i < first + routing.group_size(); ++i)
            highest.offer(static_cast<std::int32_t>(i));
    }
}

float exp_above(float score, float most) {
    return std::exp(score - most);
}

// The weights of chosen experts, whose scores' softmax they are a part of. most: the highest score.
void weigh_softmax(const Routing& routing, const float* scores, const std::int32_t* chosen,
                   float most, float* weights) {
    float sum = 0;
    for (std::int64_t i = 0; i < routing.top_k; ++i) {
        weights[i] = exp_above(scores[chosen[i]], most);
        sum += weights[i];
    }
    if (!routing.normalised) {
        sum = 0;
        for (std::int64_t i = 0; i < routing.num_experts; ++i) sum += exp_above(scores[i], most);
    }
    for (std::int64_t i = 0; i < routing.top_k; ++i) weights[i] /= sum;
}

void weigh_sigmoids(const Routing& routing, const float* scores, const std::int32_t* chosen,
                    float* weights) {
    float sum = 0;
    for (std::int64_t i = 0; i < routing.top_k; ++i) {
        weights[i] = sigmoid_of(scores[chosen[i]]);
        sum += weights[i];
    }
    if (!routing.normalised) return;
    for (std::int64_t i = 0; i < routing.top_k; ++i) weights[i] /= sum + 1e-20f;
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
                    std::int64_t first_row, std::int64_t last_row, float* scratch) {
    for (std::int64_t row = first_row; row < last_row; ++row) {
        const float* const own = scores + row * stride;
        std::int32_t* const best = experts_.data() + row * top_k_;
        float* const weights = weights_.data() + row * (top_k_ + 1);
        find_best(own, routing, scratch, best);
        float most = own[best[0]];
        if (routing.num_groups > 1)  // one that was not chosen may be higher
            for (std::int64_t i = 0; i < routing.num_experts; ++i) most = std::max(most, own[i]);
        std::sort(best, best + routing.top_k);
        if (routing.sigmoid)
            weigh_sigmoids(routing, own, best, weights);
        else
            weigh_softmax(routing, own, best, most, weights);
        if (routing.scale != 1)
            for (std::int64_t i = 0; i < routing.top_k; ++i) weights[i] *= routing.scale;
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
