#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace kept {

std::byte* allocate_zeros(std::size_t bytes) {
    constexpr std::size_t kHugePage = std::size_t{2} << 20, kLine = 64;
    // Kernels prefetch and, in the last vector of a row, read a little beyond the end.
    const std::size_t size = bytes + 256;
    void* memory = nullptr;
    if (posix_memalign(&memory, size >= kHugePage ? kHugePage : kLine, size) != 0)
        throw std::bad_alloc();
#if defined(__linux__)
    if (size >= kHugePage) madvise(memory, size, MADV_HUGEPAGE);  // advice, not a need
#endif
    std::memset(memory, 0, size);
    return static_cast<std::byte*>(memory);
}

void free_memory(void* memory) {
    std::free(memory);
}

}  // namespace kept
