#include "shares.h"

#include <algorithm>

namespace kept {
namespace {

constexpr int kAsked = 8;  // threads that one which is done looks at: to ask many takes as long

// Panels go two by two where tiles multiply a few rows.
std::int64_t part_of(std::int64_t left, std::int64_t least) {
    return std::min(left, std::max(least, (left + 3) / 4 * 2));
}

}  // namespace

void Shares::begin(int threads) {
    if (taken_.size() != static_cast<std::size_t>(threads))
        taken_ = std::vector<Taken>(static_cast<std::size_t>(threads));
    for (Taken& taken : taken_)
        for (auto& counts : taken.counts) counts.store(0, std::memory_order_relaxed);
}

void Shares::enter(int thread) {
    Taken& own = taken_[static_cast<std::size_t>(thread)];
    own.counts[own.now].store(0, std::memory_order_relaxed);
    own.now = 1 - own.now;
}

std::pair<std::int64_t, std::int64_t> Shares::take(int thread, std::int64_t count,
                                                   std::int64_t least) {
    const auto threads = static_cast<int>(taken_.size());
    const int now = taken_[static_cast<std::size_t>(thread)].now;
    for (int i = 0; i < std::min(threads, kAsked + 1); ++i) {
        const int of = (thread + i) % threads;
        const std::int64_t first = count * of / threads, last = count * (of + 1) / threads;
        auto& counts = taken_[static_cast<std::size_t>(of)].counts[now];
        std::uint64_t seen = counts.load(std::memory_order_relaxed);
        while (true) {
            const std::int64_t begin = first + static_cast<std::uint32_t>(seen);
            const std::int64_t end = last - static_cast<std::int64_t>(seen >> 32);
            if (begin == end) break;
            const std::int64_t part = part_of(end - begin, least);
            const auto taken = static_cast<std::uint64_t>(part);
            if (!counts.compare_exchange_weak(seen, seen + (i == 0 ? taken : taken << 32),
                                              std::memory_order_relaxed))
                continue;
            return i == 0 ? std::pair{begin, begin + part} : std::pair{end - part, end};
        }
    }
    return {0, 0};
}

}  // namespace kept
