#include "matrix_peak.h"

#include <chrono>
#include <cstddef>

namespace kept {
namespace {

double seconds_for(const PeakLoop& loop, std::int64_t iterations) {
    const auto start = std::chrono::steady_clock::now();
    use(loop.run(iterations));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Iterations that take about 20 ms: long beside the clock and the start of threads.
std::int64_t calibrate(const PeakLoop& loop) {
    constexpr double kTarget = 20e-3, kMeasurable = 1e-3;
    std::int64_t iterations = 256;
    double seconds = seconds_for(loop, iterations);
    while (seconds < kMeasurable) {
        iterations *= 4;
        seconds = seconds_for(loop, iterations);
    }
    return static_cast<std::int64_t>(static_cast<double>(iterations) * kTarget / seconds) + 1;
}

}  // namespace

std::optional<Rate> matrix_peak(MatrixDtype dtype, int num_threads, int num_runs,
                                const std::string& isa) {
    const CpuFeatures features = isa.empty() ? cpu_features() : features_within(isa);
    const std::optional<PeakLoop> loop = best_peak_loop(dtype, features);
    if (!loop) return std::nullopt;
    const std::int64_t iterations = calibrate(*loop);
    const std::vector<double> seconds =
        timed_rounds(num_threads, num_runs, [&](int, int) { use(loop->run(iterations)); });

    const double ops = loop->ops_per_iteration * static_cast<double>(iterations) * num_threads;
    return rate_from(loop->path, ops, seconds);
}

}  // namespace kept
