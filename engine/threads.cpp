#include "threads.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace adamas {
namespace {

// The entry point of GCC's OpenMP runtime since 4.9, which LLVM's and Intel's runtimes provide too.
using ParallelRegion = void (*)(void (*)(void *), void *, unsigned threads, unsigned flags);

std::atomic<bool> openmp_allowed{true};
// In a child of fork() the threads of every pool are gone. GCC's OpenMP runtime does not notice, and waits for them.
std::atomic<bool> is_forked{false};

ParallelRegion find_openmp() {
#ifndef _WIN32
    if (!openmp_allowed.load(std::memory_order_relaxed) || is_forked.load(std::memory_order_relaxed)) return nullptr;
    static std::atomic<ParallelRegion> found{nullptr};
    ParallelRegion region = found.load(std::memory_order_relaxed);
    if (region == nullptr) { // searched for again until it is found: PyTorch may be imported later
        region = reinterpret_cast<ParallelRegion>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
        found.store(region, std::memory_order_relaxed);
    }
    return region;
#else
    return nullptr;
#endif
}

// Threads that sleep between calls. They serve one call at a time; a second caller does its work alone.
class Pool {
    std::mutex mutex;
    std::condition_variable wake, done;
    std::vector<std::thread> workers;
    void (*body)(void *) = nullptr;
    void *argument = nullptr;
    int wanted = 0, running = 0;
    std::mutex callers;

    void work() {
        std::unique_lock lock(mutex);
        for (;;) {
            wake.wait(lock, [&] { return wanted > 0; });
            --wanted;
            lock.unlock();
            body(argument);
            lock.lock();
            if (--running == 0) done.notify_one();
        }
    }

  public:
    void run(int threads, void (*new_body)(void *), void *new_argument) {
        std::unique_lock only(callers, std::try_to_lock);
        if (!only) return new_body(new_argument);
        {
            std::lock_guard lock(mutex);
            while (int(workers.size()) < threads - 1) workers.emplace_back([this] { work(); });
            body = new_body, argument = new_argument;
            wanted = running = threads - 1;
        }
        wake.notify_all();
        new_body(new_argument);
        std::unique_lock lock(mutex);
        done.wait(lock, [&] { return running == 0; });
    }
};

// Created on first use and never destroyed: at the end of a process, or after a fork, the threads may already be gone.
std::atomic<Pool *> pool{nullptr};

Pool &own_pool() {
    Pool *found = pool.load();
    if (found != nullptr) return *found;
    Pool *made = new Pool; // has no threads yet
    if (pool.compare_exchange_strong(found, made)) return *made;
    delete made; // another thread was first
    return *found;
}

// Called in the child of a fork. The parent's pool is abandoned, since a thread that does not exist in the child may
// hold its locks; the next step creates another.
void forget_threads() {
    is_forked.store(true);
    pool.store(nullptr);
}

#ifndef _WIN32
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, forget_threads);
#endif

} // namespace

void run_on_threads(int threads, void (*body)(void *), void *argument) {
    if (threads <= 1) return body(argument);
    if (const ParallelRegion region = find_openmp()) return region(body, argument, unsigned(threads), 0);
    own_pool().run(threads, body, argument);
}

void use_openmp(bool allowed) { openmp_allowed.store(allowed, std::memory_order_relaxed); }

const char *thread_source() { return find_openmp() ? "OpenMP" : "own"; }

int default_threads() {
    if (const char *value = std::getenv("OMP_NUM_THREADS"))
        if (const int threads = std::atoi(value); threads > 0) return threads;
    const unsigned processors = std::thread::hardware_concurrency();
    return processors ? int(processors) : 1;
}

} // namespace adamas
