// Runs a function on several threads at once.
#pragma once

namespace adamas {

// Calls body(argument) on up to `threads` threads at once, this one among them, and returns when all have returned. The
// threads are those of the OpenMP runtime that the process already has (PyTorch brings one): a second pool beside it
// would fight it for the cores. Where there is none, and in a child of fork(), Adamas keeps threads of its own.
void run_on_threads(int threads, void (*body)(void *), void *argument);

const char *thread_source();   // "OpenMP" or "own"
void use_openmp(bool allowed); // false: threads of its own, also where there is an OpenMP runtime
int default_threads();         // OMP_NUM_THREADS, or as many as there are processors

} // namespace adamas
