// Where weights that are read once are prefetched to, on x86-64.
#pragma once

namespace kept {

// Whether past the outer caches (PREFETCHNTA) rather than through them (PREFETCHT0). AMD Zen 5
// reads no slower past its caches, and keeps them for what is read again. Intel Sapphire Rapids, of
// weights that no cache holds, then reads 11 of the 29 GB/s that it does through them: each line
// waits in one of the few buffers of the nearest cache.
extern const bool kPrefetchPastCaches;

}  // namespace kept
