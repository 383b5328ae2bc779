#include "pool.h"

#include <chrono>
#include <cstdlib>

#include "cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#endif

namespace kept {
namespace {

constexpr int kSpins = 2000;  // some tens of microseconds: longer than any wait of an idle machine
// Then the processor is offered to others, but kept warm for the next step of a generation.
constexpr auto kYielding = std::chrono::milliseconds(2);

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Leaked on purpose: its threads may still wait when static objects are destroyed.
std::atomic<Pool*> g_shared{nullptr};
std::mutex g_making;

// A child has none of its parent's threads, and a mutex of theirs might be held for ever.
void forget_after_fork() {
    g_shared.store(nullptr);
    new (&g_making) std::mutex;
}

}  // namespace

Pool& Pool::shared() {
    if (Pool* pool = g_shared.load(std::memory_order_acquire)) return *pool;
    const std::lock_guard lock(g_making);
    if (Pool* pool = g_shared.load()) return *pool;
    static const int registered = pthread_atfork(nullptr, nullptr, forget_after_fork);
    static_cast<void>(registered);
    Pool* pool = new Pool(1);
    g_shared.store(pool, std::memory_order_release);
    return *pool;
}

Pool::Pool(int num_threads) {
    start(num_threads);
}

Pool::~Pool() {
    stop();
}

void Pool::start(int num_threads) {
    num_threads_ = num_threads;
    // With more threads than processors, whoever spins takes the processor from who is waited for.
    num_spins_ = num_threads <= num_cores() ? kSpins : 0;
    const std::uint32_t seen = round_.load();
    try {
        for (int thread = 1; thread < num_threads; ++thread)
            threads_.emplace_back([this, thread, seen] { work(thread, seen); });
    } catch (...) {
        stop();
        throw;
    }
}

void Pool::stop() {
    if (!threads_.empty()) {
        stopping_ = true;
        round_.fetch_add(1, std::memory_order_release);
        round_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }
    threads_.clear();
    stopping_ = false;
    num_threads_ = 1;
    arrived_ = 0;
}

void Pool::resize(int num_threads) {
    const std::lock_guard lock(turn_);
    if (num_threads == num_threads_) return;
    stop();
    start(num_threads);
}

void Pool::run(Job job, void* context) {
    const std::lock_guard lock(turn_);
    job_ = job;
    context_ = context;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    job(context, 0);
    sync();
}

void Pool::sync() {
    if (num_threads_ == 1) return;
    const std::uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.store(phase + 1, std::memory_order_release);
        phase_.notify_all();
    } else {
        wait_while(phase_, phase);
    }
}

void Pool::work(int thread, std::uint32_t seen) {
    while (true) {
        wait_while(round_, seen);
        ++seen;
        if (stopping_) return;
        job_(context_, thread);
        sync();
    }
}

void Pool::wait_while(const std::atomic<std::uint32_t>& word, std::uint32_t old) const {
    const auto changed = [&] { return word.load(std::memory_order_acquire) != old; };
    for (int i = 0; i < num_spins_; ++i) {
        if (changed()) return;
        relax();
    }
    using Clock = std::chrono::steady_clock;
    const auto until = Clock::now() + kYielding;
    while (!changed()) {
        if (Clock::now() < until)
            sched_yield();
        else
            word.wait(old, std::memory_order_acquire);
    }
}

}  // namespace kept
