#include "torch_team.h"

#include <dlfcn.h>

#include <atomic>

namespace kept {
namespace {

struct Library {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
    int (*thread_num)();
    int (*num_threads)();
    int (*in_parallel)();
};

Library g_library;
std::atomic<bool> g_found{false}, g_forgotten{false};

template <class F>
bool look_up(void* handle, const char* name, F& to) {
    to = reinterpret_cast<F>(dlsym(handle, name));
    return to != nullptr;
}

struct Task {
    int num_threads;
    Pool::Job job;
    void* context;
    std::atomic<int> missing{0};
};

void take_part(void* data) {
    Task& task = *static_cast<Task*>(data);
    if (g_library.num_threads() != task.num_threads) {
        task.missing = 1;
        return;
    }
    task.job(task.context, g_library.thread_num());
}

}  // namespace

bool find_torch_team(const char* path) {
    if (g_found || g_forgotten) return g_found;
    void* handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (handle == nullptr) return false;
    Library found;
    if (!look_up(handle, "GOMP_parallel", found.parallel) ||
        !look_up(handle, "omp_get_thread_num", found.thread_num) ||
        !look_up(handle, "omp_get_num_threads", found.num_threads) ||
        !look_up(handle, "omp_in_parallel", found.in_parallel))
        return false;
    g_library = found;
    g_found = true;
    return true;
}

void forget_torch_team() {
    g_forgotten = true;
    g_found = false;
}

bool run_on_torch_team(int num_threads, Pool::Job job, void* context) {
    if (!g_found || g_library.in_parallel()) return false;
    Task task{num_threads, job, context};
    g_library.parallel(take_part, &task, static_cast<unsigned>(num_threads), 0);
    return task.missing == 0;
}

}  // namespace kept
