#pragma once

#include <functional>
#include <vector>

namespace kept {

// Runs work(thread, round) on `num_threads` threads, all of them starting each round together, and
// returns the seconds from the start of each round until its last thread was done. Round 0 is there
// to warm up (first touch of memory, clock frequency) and is not in the result. `work` must not
// throw. Throws std::system_error if the threads cannot be had.
std::vector<double> timed_rounds(int num_threads, int num_rounds,
                                 const std::function<void(int thread, int round)>& work);

// Makes a value look used, so that the compiler cannot drop the work behind it.
template <class T>
void use(const T& value) {
    asm volatile("" : : "m"(value));
}

// The outcome of a probe: units (bytes, operations) per second.
struct Rate {
    const char* path;  // the instructions that were used
    double best;
    double median;
};

Rate rate_from(const char* path, double units_per_round, std::vector<double> seconds);

}  // namespace kept
