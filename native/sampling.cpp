#include "sampling.h"

#include <algorithm>
#include <utility>

#include "dispatch.h"
#include "pool.h"

namespace kept {

void weigh_rows(const std::vector<WeighArgs>& rows) {
    if (rows.empty()) return;
    std::vector<std::int64_t> ends{0};  // chunks up to the end of each row
    for (const WeighArgs& row : rows)
        ends.push_back(ends.back() + (row.size + kWeightChunk - 1) / kWeightChunk);
    Pool::Turn turn(Pool::shared());
    struct Context {
        const Kernels& kernels;
        const std::vector<WeighArgs>& rows;
        const std::vector<std::int64_t>& ends;
        std::int64_t threads;
    } context{*available_kernels().front(), rows, ends, turn.num_threads()};
    turn.run(
        [](void* p, int thread) {
            const Context& c = *static_cast<Context*>(p);
            const std::int64_t all = c.ends.back();
            const std::int64_t first = all * thread / c.threads;
            const std::int64_t last = all * (thread + 1) / c.threads;
            for (std::size_t i = 0; i < c.rows.size(); ++i) {
                const std::int64_t from = std::max(first, c.ends[i]);
                const std::int64_t to = std::min(last, c.ends[i + 1]);
                if (from < to) c.kernels.weigh(c.rows[i], from - c.ends[i], to - c.ends[i]);
            }
        },
        &context);
}

namespace {

__extension__ using Wide = unsigned __int128;

// High and low half of a product.
std::pair<std::uint64_t, std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
    const Wide product = static_cast<Wide>(a) * b;
    return {static_cast<std::uint64_t>(product >> 64), static_cast<std::uint64_t>(product)};
}

}  // namespace

std::uint64_t random_bits(std::uint64_t seed, std::uint64_t position) {
    std::uint64_t counter[4] = {1, position, 0, 0}, key[2] = {seed, 0};
    for (int round = 0; round < 10; ++round) {
        if (round > 0) {
            key[0] += 0x9E3779B97F4A7C15u;
            key[1] += 0xBB67AE8584CAA73Bu;
        }
        const auto [high0, low0] = multiply(0xD2E7470EE14C6C93u, counter[0]);
        const auto [high1, low1] = multiply(0xCA5A826395121157u, counter[2]);
        counter[0] = high1 ^ counter[1] ^ key[0];
        counter[1] = low1;
        counter[2] = high0 ^ counter[3] ^ key[1];
        counter[3] = low0;
    }
    return counter[0];
}

}  // namespace kept
