// A pool of threads that run one job together and meet at barriers within it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace kept {

class Pool {
  public:
    using Job = void (*)(void* context, int thread);

    // The process's pool, made at first use with one thread; anew in a forked child, with as many
    // as its parent's had. Throws std::system_error where the child cannot have them.
    static Pool& shared();

    // num_threads >= 1, the calling thread included. Throws std::system_error.
    explicit Pool(int num_threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int num_threads() const { return num_threads_; }
    // Waits for the turns before. Throws std::system_error, and then has one thread.
    void resize(int num_threads);

    // The pool to oneself: while a turn lasts nobody else runs a job, and no thread comes or goes.
    // What is made for a number of threads is made within the turn that uses it.
    class Turn {
      public:
        // Waits for the turns before.
        explicit Turn(Pool& pool) : pool_(pool), lock_(pool.turn_) {}

        int num_threads() const { return pool_.num_threads(); }
        // Runs job(context, thread) on every thread, the caller being thread 0, and returns when
        // all are done. A job must not throw, nor take a turn.
        void run(Job job, void* context) { pool_.run(job, context); }
        // The same on threads of torch where it lends as many, for a caller between operations of
        // torch.
        void run_among_torch(Job job, void* context) { pool_.run_among_torch(job, context); }

      private:
        Pool& pool_;
        std::lock_guard<std::mutex> lock_;
    };

    // Within a job: returns when every thread has come here. The last to come calls `then` before
    // the others go on; it must neither throw nor sync.
    template <class F>
    void sync(const F& then) {
        const std::uint32_t phase = phase_.load(std::memory_order_relaxed);
        if (arrive()) {
            then();
            release(phase + 1);
        } else {
            wait_while(phase_, phase);
        }
    }
    void sync() {
        sync([] {});
    }

  private:
    void start(int num_threads);
    void stop();
    void run(Job job, void* context);
    void run_among_torch(Job job, void* context);
    void work(int thread, std::uint32_t seen);
    bool arrive();  // whether all others have
    void release(std::uint32_t phase);
    void wait_while(const std::atomic<std::uint32_t>& word, std::uint32_t old) const;

    // Each on a cache line of its own: threads spin on some and write others.
    alignas(64) std::atomic<std::uint32_t> round_{0};
    alignas(64) std::atomic<std::uint32_t> phase_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::mutex turn_;
    Job job_ = nullptr;
    void* context_ = nullptr;
    bool stopping_ = false;
    std::atomic<int> num_threads_{1};
    int num_spins_ = 0;
    std::vector<std::thread> threads_;
};

}  // namespace kept
