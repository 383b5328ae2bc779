#include "read_bandwidth.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <new>
#include <numeric>

#include "cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace kept {
namespace {

// What a reader takes per step. Parts are whole steps, so that no reader has a tail to handle.
constexpr std::size_t kStep = 512;
// How far ahead to prefetch: a page, which the hardware prefetcher does not look beyond.
constexpr std::size_t kAhead = 4096;

using Reader = std::uint64_t (*)(const std::byte* data, std::size_t size);

std::uint64_t read_portable(const std::byte* data, std::size_t size) {
    constexpr std::size_t kWords = kStep / sizeof(std::uint64_t);
    const auto* words = reinterpret_cast<const std::uint64_t*>(data);
    std::array<std::uint64_t, kWords / 4> sums{};
    for (std::size_t i = 0; i < size / sizeof(std::uint64_t); i += kWords) {
        __builtin_prefetch(words + i + kAhead / sizeof(std::uint64_t));
        for (std::size_t k = 0; k < kWords; ++k) sums[k % sums.size()] += words[i + k];
    }
    return std::accumulate(sums.begin(), sums.end(), std::uint64_t{0});
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) std::uint64_t read_avx2(const std::byte* data, std::size_t size) {
    __m256i sums[8];
    for (auto& sum : sums) sum = _mm256_setzero_si256();
    for (std::size_t i = 0; i < size; i += kStep) {
        for (std::size_t k = 0; k < kStep / 32; ++k) {
            const auto* at = reinterpret_cast<const __m256i*>(data + i + 32 * k);
            if (k % 2 == 0)
                _mm_prefetch(reinterpret_cast<const char*>(data + i + 32 * k + kAhead),
                             _MM_HINT_T0);
            sums[k % 8] = _mm256_add_epi64(sums[k % 8], _mm256_load_si256(at));
        }
    }
    alignas(32) std::uint64_t lanes[8 * 4];
    for (int k = 0; k < 8; ++k)
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes + 4 * k), sums[k]);
    return std::accumulate(std::begin(lanes), std::end(lanes), std::uint64_t{0});
}

__attribute__((target("avx512f"))) std::uint64_t read_avx512(const std::byte* data,
                                                             std::size_t size) {
    __m512i sums[8];
    for (auto& sum : sums) sum = _mm512_setzero_si512();
    for (std::size_t i = 0; i < size; i += kStep) {
        for (std::size_t k = 0; k < kStep / 64; ++k) {
            _mm_prefetch(reinterpret_cast<const char*>(data + i + 64 * k + kAhead), _MM_HINT_T0);
            sums[k] = _mm512_add_epi64(sums[k], _mm512_load_si512(data + i + 64 * k));
        }
    }
    alignas(64) std::uint64_t lanes[8 * 8];
    for (int k = 0; k < 8; ++k) _mm512_store_si512(lanes + 8 * k, sums[k]);
    return std::accumulate(std::begin(lanes), std::end(lanes), std::uint64_t{0});
}

#endif

struct ReadPath {
    const char* name;
    Reader read;
};

ReadPath best_path() {
#if defined(__x86_64__)
    if (cpu_features().avx512f) return {"AVX-512 loads", read_avx512};
    if (cpu_features().avx2) return {"AVX2 loads", read_avx2};
#endif
    return {"64-bit loads", read_portable};
}

struct Free {
    void operator()(std::byte* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<std::byte, Free>;

Buffer allocate(std::size_t size) {
    constexpr std::size_t kHugePage = std::size_t{2} << 20;
    void* p = nullptr;
    if (posix_memalign(&p, kHugePage, size) != 0) throw std::bad_alloc();
#if defined(__linux__)
    // With 4 KiB pages the probe would measure address translation as well. Advice, not a need.
    madvise(p, size, MADV_HUGEPAGE);
#endif
    return Buffer(static_cast<std::byte*>(p));
}

}  // namespace

Rate read_bandwidth(int num_threads, std::size_t size_bytes, int num_runs) {
    const ReadPath path = best_path();
    const std::size_t part = size_bytes / static_cast<std::size_t>(num_threads) / kStep * kStep;
    const std::size_t size = part * static_cast<std::size_t>(num_threads);
    const Buffer buffer = allocate(size);
    std::vector<std::uint64_t> checks(static_cast<std::size_t>(num_threads));

    const auto work = [&](int thread, int round) {
        std::byte* mine = buffer.get() + part * static_cast<std::size_t>(thread);
        // Round 0 writes: memory gets its place (the NUMA node of its reader) at the first touch,
        // and pages never written all read from one shared page of zeros.
        if (round == 0)
            for (std::size_t i = 0; i < part; i += 64) mine[i] = static_cast<std::byte>(i >> 6);
        checks[static_cast<std::size_t>(thread)] += path.read(mine, part);
    };
    const std::vector<double> seconds = timed_rounds(num_threads, num_runs, work);
    for (const std::uint64_t check : checks) use(check);
    return rate_from(path.name, static_cast<double>(size), seconds);
}

}  // namespace kept
