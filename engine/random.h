// Counter-based random numbers: a function of (seed, tensor, element, step), never a stream. So the bits are the same
// for any number of threads, any chunking, and after resuming. adamas.rule.formats has the same functions in Python,
// and explains why the step is only added. The functions are `static`, because this header is compiled for several
// instruction sets and the linker must not mix them.
#pragma once

#include <cstdint>

namespace adamas {

struct Key {
    uint32_t first, second;
};

// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
static inline uint64_t mix64(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// One key for each (tensor, draw, 2^32 elements); `tensor` includes the seed.
static inline Key key_of(uint64_t tensor, uint64_t draw, uint64_t index_high) {
    const uint64_t x = mix64(mix64(tensor + draw) + index_high);
    return {uint32_t(x), uint32_t(x >> 32)};
}

// 32 random bits for one element: a two-round multiplicative hash with a key before each round.
static inline uint32_t random_bits(uint32_t index, Key key) {
    uint32_t x = index ^ key.first;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x += key.second;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

// The increments of the random numbers from one step to the next, and from one element of a block to the next.
constexpr uint32_t step_forward = 0x9e3779b9u;     // 2^32 (sqrt(5) - 1)/2
constexpr uint32_t position_forward = 0x6a09e667u; // 2^32 (sqrt(2) - 1)
constexpr uint32_t code_forward = 6787;            // 2^14 (sqrt(2) - 1), for the 14 bits of a threshold of codes

} // namespace adamas
