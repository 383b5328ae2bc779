// Where weights, keys and values are prefetched to.
#pragma once

#include <cstdint>

namespace kept {

// Whether past the outer caches (PREFETCHNTA) rather than through them (PREFETCHT0). AMD
// Zen 5 reads no slower past its caches, and keeps them for what is read again. Intel Sapphire
// Rapids, of weights that no cache holds, then reads 11 of the 29 GB/s that it does through them:
// each line waits in one of the few buffers of the nearest cache.
extern const bool kPrefetchPastCaches;

// Bytes that weights are prefetched ahead of their use. On Sapphire Rapids one row reads bf16 at 54
// to 76 % of the bandwidth 8 KiB ahead, over pages that its own prefetcher has not come to, and at
// 92 to 97 % 1 to 2 KiB ahead.
extern const std::int64_t kPrefetchAhead;

// To the second cache: what is read some thousands of cycles later. By hand: GCC finds that a
// function which only prefetches has no effect, and drops its calls.
inline __attribute__((always_inline)) void prefetch_outer(const void* p) {
#if defined(__x86_64__)
    asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
#else
    __builtin_prefetch(p, 0, 2);
#endif
}

}  // namespace kept
