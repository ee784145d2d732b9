// Runs a function on several threads at once.
#pragma once

namespace adamas {

// Calls body(argument) on up to `threads` threads at once, including this one, and returns when all have returned. The
// threads are those of the OpenMP runtime that the process already has (PyTorch brings one), since a second pool would
// compete for the cores. Without a runtime, and in a child of fork(), Adamas has its own threads.
void run_on_threads(int threads, void (*body)(void *), void *argument);

const char *thread_source();   // "OpenMP" or "own"
void use_openmp(bool allowed); // false: own threads, even if there is an OpenMP runtime
int default_threads();         // OMP_NUM_THREADS, or the number of processors

} // namespace adamas
