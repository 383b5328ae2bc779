#include "timed_rounds.h"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <system_error>
#include <thread>

namespace kept {

std::vector<double> timed_rounds(int num_threads, int num_rounds,
                                 const std::function<void(int thread, int round)>& work) {
    using Clock = std::chrono::steady_clock;
    // The last thread to arrive notes the time: stamps[r] is the start of round r.
    std::vector<Clock::time_point> stamps(static_cast<std::size_t>(num_rounds) + 2);
    std::size_t num_stamps = 0;
    const auto note_time = [&]() noexcept { stamps[num_stamps++] = Clock::now(); };
    std::barrier sync(num_threads, note_time);

    std::atomic<bool> abandoned = false;
    const auto body = [&](int thread) {
        sync.arrive_and_wait();
        for (int round = 0; round <= num_rounds && !abandoned; ++round) {
            work(thread, round);
            sync.arrive_and_wait();
        }
    };

    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(num_threads));
    try {
        for (int thread = 0; thread < num_threads; ++thread) threads.emplace_back(body, thread);
    } catch (const std::system_error&) {
        // Arrive for those that never came, or the ones that did would wait for ever.
        abandoned = true;
        for (auto i = static_cast<int>(threads.size()); i < num_threads; ++i)
            sync.arrive_and_drop();
        for (auto& thread : threads) thread.join();
        throw;
    }
    for (auto& thread : threads) thread.join();

    std::vector<double> seconds;
    for (std::size_t i = 2; i < stamps.size(); ++i)
        seconds.push_back(std::chrono::duration<double>(stamps[i] - stamps[i - 1]).count());
    return seconds;
}

Rate rate_from(const char* path, double units_per_round, std::vector<double> seconds) {
    std::sort(seconds.begin(), seconds.end());
    const std::size_t n = seconds.size();
    const double median = (seconds[(n - 1) / 2] + seconds[n / 2]) / 2;
    return {path, units_per_round / seconds.front(), units_per_round / median};
}

}  // namespace kept
