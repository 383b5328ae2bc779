#include "choose.h"

#include <algorithm>
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

}  // namespace

void largest_of_row(const float* row, std::int64_t size, std::int64_t k, float* values,
                    std::int64_t* tokens) {
    std::vector<Scored> found;
    const auto room = static_cast<std::size_t>(k + std::max<std::int64_t>(k, 64));
    found.reserve(room);
    // Later tokens that equal the k-th are none of the largest.
    float floor = -std::numeric_limits<float>::infinity();
    bool is_open = true;
    for (std::int64_t i = 0; i < size; ++i) {
        if (!is_open && row[i] <= floor) continue;
        found.push_back({row[i], i, 0});
        if (found.size() < room) continue;
        std::nth_element(found.begin(), found.begin() + (k - 1), found.end(), is_larger);
        found.resize(static_cast<std::size_t>(k));
        floor = found.back().score;
        is_open = std::isnan(floor);
    }
    std::partial_sort(found.begin(), found.begin() + k, found.end(), is_larger);
    for (std::int64_t i = 0; i < k; ++i) {
        values[i] = found[static_cast<std::size_t>(i)].score;
        tokens[i] = found[static_cast<std::size_t>(i)].token;
    }
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
