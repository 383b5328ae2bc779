#include "choose.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace kept {
namespace {

struct Scored {
    float score;
    std::int64_t token, weight;
};

// As weigh.h has it, of one score: the same operations in the same order.
std::int64_t weight_of(float score, float peak) {
    const float x = std::max(-32.0f, score - peak);
    const float n = std::nearbyint(x * 1.44269504088896341f);
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    std::int32_t bits;
    std::memcpy(&bits, &p, sizeof bits);
    bits += (static_cast<std::int32_t>(n) + 42) * (1 << 23);
    std::memcpy(&p, &bits, sizeof bits);
    return static_cast<std::int64_t>(std::nearbyint(static_cast<double>(p)));
}

std::int64_t sum_of(const std::vector<Scored>& row) {
    std::int64_t sum = 0;
    for (const Scored& each : row) sum += each.weight;
    return sum;
}

// The scores, the highest first and of equals the lower token; empty where one is not finite.
std::vector<Scored> in_order(const FewArgs& args) {
    std::vector<Scored> row;
    for (std::int64_t i = 0; i < args.count; ++i) {
        const float score = args.logits[i] / args.temperature;
        if (!(score < std::numeric_limits<float>::infinity())) return {};
        row.push_back({score, args.tokens[i], 0});
    }
    std::ranges::sort(row, [](const Scored& a, const Scored& b) {
        return a.score != b.score ? a.score > b.score : a.token < b.token;
    });
    return row;
}

// How many tokens, the likeliest first, it takes to reach `mass` of `total`.
std::int64_t num_in_nucleus(const std::vector<Scored>& row, double mass, std::int64_t total) {
    const double wanted = mass * static_cast<double>(total);
    std::int64_t before = 0, count = 0;
    for (const Scored& each : row) {
        count += static_cast<double>(before) < wanted;
        before += each.weight;
    }
    return count;
}

std::int64_t draw(std::vector<Scored> row, double uniform) {
    std::ranges::sort(row, {}, &Scored::token);
    const std::int64_t total = sum_of(row);
    std::int64_t place = static_cast<std::int64_t>(uniform * static_cast<double>(total));
    place = std::min(place, total - 1);
    std::int64_t upto = 0;
    for (const Scored& each : row)
        if ((upto += each.weight) > place) return each.token;
    return row.back().token;
}

// Before one another as `largest_of_row` has them.
bool is_larger(const Scored& a, const Scored& b) {
    const bool a_nan = std::isnan(a.score), b_nan = std::isnan(b.score);
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && a.score != b.score) return a.score > b.score;
    return a.token < b.token;
}

// The k largest of what it sees, in the order of their tokens.
class Largest {
  public:
    explicit Largest(std::int64_t k)
        : k_(k), room_(static_cast<std::size_t>(k + std::max<std::int64_t>(k, 64))) {
        found_.reserve(room_);
    }

    void see(float value, std::int64_t token) {
        // Later tokens that equal the k-th are none of the largest.
        if (!is_open_ && value <= floor_) return;
        found_.push_back({value, token, 0});
        if (found_.size() < room_) return;
        std::nth_element(found_.begin(), found_.begin() + (k_ - 1), found_.end(), is_larger);
        found_.resize(static_cast<std::size_t>(k_));
        floor_ = found_.back().score;
        is_open_ = std::isnan(floor_);
    }

    // The largest first; -inf and the token 0 where there are fewer.
    void take(float* values, std::int64_t* tokens) {
        const auto count = std::min<std::int64_t>(k_, static_cast<std::int64_t>(found_.size()));
        std::partial_sort(found_.begin(), found_.begin() + count, found_.end(), is_larger);
        for (std::int64_t i = 0; i < k_; ++i) {
            const bool is_there = i < count;
            values[i] = is_there ? found_[static_cast<std::size_t>(i)].score
                                 : -std::numeric_limits<float>::infinity();
            tokens[i] = is_there ? found_[static_cast<std::size_t>(i)].token : 0;
        }
    }

  private:
    std::int64_t k_;
    std::size_t room_;
    std::vector<Scored> found_;
    float floor_ = -std::numeric_limits<float>::infinity();
    bool is_open_ = true;
};

}  // namespace

void largest_of_row(const float* row, std::int64_t size, std::int64_t k, float* values,
                    std::int64_t* tokens) {
    Largest found(k);
    for (std::int64_t i = 0; i < size; ++i) found.see(row[i], i);
    found.take(values, tokens);
}

void largest_allowed_of_row(const float* row, std::int64_t size, const std::uint32_t* words,
                            std::int64_t num_words, std::int64_t k, float* values,
                            std::int64_t* tokens) {
    Largest found(k);
    const std::int64_t count = std::min(num_words, (size + 31) / 32);
    for (std::int64_t word = 0; word < count; ++word)
        for (std::uint32_t bits = words[word]; bits; bits &= bits - 1) {
            const std::int64_t token = 32 * word + std::countr_zero(bits);
            if (token < size) found.see(row[token], token);
        }
    found.take(values, tokens);
}

std::int64_t choose_from_few(const FewArgs& args) {
    std::vector<Scored> row = in_order(args);
    if (row.empty() || !(row[0].score > -std::numeric_limits<float>::infinity())) return -1;
    const float edge = args.edge / args.temperature, peak = row[0].score;
    const std::int64_t num_few = args.count;
    const std::int64_t num_sure =
        std::ranges::count_if(row, [edge](const Scored& each) { return each.score > edge; });
    if (num_sure == 0) return -1;
    if (!args.draws) return row[0].token;
    bool is_decided = args.top_k > 0 && args.top_k <= num_sure;
    std::int64_t num_kept = num_few;
    if (args.top_k > 0) {
        const float lowest = row[static_cast<std::size_t>(std::min(args.top_k, num_few) - 1)].score;
        num_kept = std::ranges::count_if(row, [=](const Scored& x) { return x.score >= lowest; });
    }
    row.resize(static_cast<std::size_t>(num_kept));
    for (Scored& each : row) each.weight = weight_of(each.score, peak);
    if (args.top_p < 1.0) {
        const std::int64_t total = args.top_k > 0 ? sum_of(row) : args.total;
        const std::int64_t found = num_in_nucleus(row, args.top_p, total);
        is_decided |= args.top_k == 0 && found < num_few && found <= num_sure;
        num_kept = std::min(num_kept, std::max<std::int64_t>(found, 1));
    }
    if (args.log_min_p > -std::numeric_limits<double>::infinity()) {
        const auto least = static_cast<float>(static_cast<double>(peak) + args.log_min_p);
        is_decided |= least > edge;
        const std::int64_t likely =
            std::ranges::count_if(row, [=](const Scored& x) { return x.score >= least; });
        num_kept = std::min(num_kept, std::max<std::int64_t>(likely, 1));
    }
    if (!is_decided) return -1;
    row.resize(static_cast<std::size_t>(num_kept));
    return draw(std::move(row), args.uniform);
}

}  // namespace kept
