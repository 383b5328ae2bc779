#include "top_logits.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

namespace kept {
namespace {

// A rank's low half is the token's complement, its high half rises with the logit.
std::uint32_t token_of(std::uint64_t rank) {
    return ~static_cast<std::uint32_t>(rank);
}

float logit_of(std::uint64_t rank) {
    const auto key = static_cast<std::uint32_t>(rank >> 32);
    if (key == 0xffffffffu) return std::numeric_limits<float>::quiet_NaN();
    const std::uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float logit;
    std::memcpy(&logit, &bits, sizeof logit);
    return logit;
}

}  // namespace

void cut(TopRow& row) {
    std::uint64_t* const last = row.ranks + row.k - 1;
    std::nth_element(row.ranks, last, row.ranks + row.count, std::greater<>());
    row.count = row.k;
    row.is_open = false;
    row.floor = logit_of(*last);
}

void TopLogits::begin(std::int64_t threads, std::int64_t rows, std::int64_t k) {
    rows_ = rows;
    k_ = k;
    values_.clear();
    tokens_.clear();
    found_.clear();
    if (k == 0) return;
    // Cutting takes time in proportion to the room, so it must not come often.
    const std::int64_t room = k + std::max<std::int64_t>(k, 64), gap = 64 / sizeof ranks_[0];
    ranks_.resize(static_cast<std::size_t>(threads * rows * (room + gap)));
    for (std::int64_t i = 0; i < threads * rows; ++i)
        found_.push_back({ranks_.data() + i * (room + gap), static_cast<std::int32_t>(k),
                          static_cast<std::int32_t>(room), 0, true, 0.0f});
}

TopRow* TopLogits::rows_of(int thread) {
    return k_ == 0 ? nullptr : found_.data() + thread * rows_;
}

void TopLogits::finish(const float* logits, std::int64_t vocabulary) {
    std::vector<std::uint64_t> joined;
    for (std::int64_t row = 0; k_ > 0 && row < rows_; ++row) {
        joined.clear();
        for (auto i = static_cast<std::size_t>(row); i < found_.size();
             i += static_cast<std::size_t>(rows_))
            joined.insert(joined.end(), found_[i].ranks, found_[i].ranks + found_[i].count);
        // No two ranks are equal, so the order does not depend on who found which.
        std::partial_sort(joined.begin(), joined.begin() + k_, joined.end(), std::greater<>());
        for (std::int64_t i = 0; i < k_; ++i) {
            const std::uint32_t token = token_of(joined[static_cast<std::size_t>(i)]);
            values_.push_back(logits[row * vocabulary + token]);
            tokens_.push_back(token);
        }
    }
}

}  // namespace kept
