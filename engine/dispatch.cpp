// Chooses the build of the kernels for this processor.

#include <cstring>

#ifdef _MSC_VER
#include <immintrin.h>
#include <intrin.h>
#endif

#include "kernels.h"

namespace adamas {

namespace baseline {
extern const Kernels kernels;
}
#ifdef ADAMAS_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

namespace {

#ifdef ADAMAS_X86
#ifdef _MSC_VER
bool has(int leaf, int reg, int bit) {
    int info[4];
    __cpuidex(info, leaf, 0);
    return info[reg] >> bit & 1;
}
bool system_saves(unsigned mask) { return has(1, 2, 27) && (_xgetbv(0) & mask) == mask; }
bool can_avx2() { return system_saves(0x6) && has(7, 1, 5) && has(1, 2, 12) && has(1, 2, 29); }
bool can_avx512() {
    return can_avx2() && system_saves(0xe6) && has(7, 1, 16) && has(7, 1, 17) && has(7, 1, 30) && has(7, 1, 31);
}
#else
bool can_avx2() {
    __builtin_cpu_init(); // the kernels are chosen before main, where it may not have run yet
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool can_avx512() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif
#endif

} // namespace

const Kernels *kernels_named(const char *name) {
#ifdef ADAMAS_X86
    if (!std::strcmp(name, "avx512")) return can_avx512() ? &avx512::kernels : nullptr;
    if (!std::strcmp(name, "avx2")) return can_avx2() ? &avx2::kernels : nullptr;
#endif
    return std::strcmp(name, "baseline") ? nullptr : &baseline::kernels;
}

const Kernels &best_kernels() {
    const char *const names[] = {"avx512", "avx2"}; // the widest first
    for (const char *name : names)
        if (const Kernels *kernels = kernels_named(name)) return *kernels;
    return baseline::kernels;
}

} // namespace adamas
