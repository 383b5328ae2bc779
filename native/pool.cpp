#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#include "cpu_features.h"
#include "torch_team.h"

#if defined(__x86_64__)
#include <immintrin.h>
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

// Arithmetic as the kernels count on it while this lives: rounding to nearest, subnormal numbers
// kept. Each thread has a mode of its own, which a library may have changed in the caller's alone,
// and then a number would depend on the thread that computed it.
class PlainArithmetic {
  public:
    PlainArithmetic() : before_(mode()) { set_mode(kPlain); }
    ~PlainArithmetic() { set_mode(before_); }
    PlainArithmetic(const PlainArithmetic&) = delete;
    PlainArithmetic& operator=(const PlainArithmetic&) = delete;

  private:
#if defined(__x86_64__)
    using Mode = unsigned;
    static constexpr Mode kPlain = 0x1f80;  // of MXCSR: all exceptions masked, and nothing else
    static Mode mode() { return _mm_getcsr(); }
    static void set_mode(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
    using Mode = std::uint64_t;
    static constexpr Mode kPlain = 0;  // of FPCR
    static Mode mode() {
        Mode found;
        asm volatile("mrs %0, fpcr" : "=r"(found));
        return found;
    }
    static void set_mode(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
    using Mode = int;
    static constexpr Mode kPlain = 0;
    static Mode mode() { return kPlain; }
    static void set_mode(Mode) {}
#endif

    Mode before_;
};

// Leaked on purpose: its threads may still wait when static objects are destroyed.
std::atomic<Pool*> g_shared{nullptr};
std::mutex g_making;
std::atomic<int> g_num_threads{1};  // of the shared pool, for a forked child's

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
    Pool* pool = new Pool(g_num_threads.load());
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
    if (num_threads < 1)
        throw std::invalid_argument(std::to_string(num_threads) + " threads; give 1 or more");
    const std::lock_guard lock(turn_);
    if (num_threads == num_threads_) return;
    stop();
    start(num_threads);
    if (this == g_shared.load()) g_num_threads.store(num_threads);
}

void Pool::run(Job job, void* context) {
    const PlainArithmetic plain;
    job_ = job;
    context_ = context;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    job(context, 0);
    sync();
}

void Pool::run_among_torch(Job job, void* context) {
    struct Plain {
        Job job;
        void* context;
    } plain{job, context};
    const auto one = [](void* data, int thread) {
        const PlainArithmetic arithmetic;
        const Plain& found = *static_cast<Plain*>(data);
        found.job(found.context, thread);
    };
    if (num_threads_ == 1 || !run_on_torch_team(num_threads_, one, &plain)) run(job, context);
}

bool Pool::arrive() {
    return num_threads_ == 1 ||
           arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_;
}

void Pool::release(std::uint32_t phase) {
    if (num_threads_ == 1) return;
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase, std::memory_order_release);
    phase_.notify_all();
}

void Pool::work(int thread, std::uint32_t seen) {
    while (true) {
        wait_while(round_, seen);
        ++seen;
        if (stopping_) return;
        const PlainArithmetic plain;
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
