#include "memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace kept {

namespace {

constexpr std::size_t kLine = 64;

// Lies in the line before the memory.
struct Header {
    void* base;
    std::size_t mapped;  // bytes; 0: from the heap
};
static_assert(sizeof(Header) <= kLine);

std::byte* place_header(std::byte* memory, void* base, std::size_t mapped) {
    const Header header{base, mapped};
    std::memcpy(memory - kLine, &header, sizeof header);
    return memory;
}

#if defined(__linux__)
constexpr std::size_t kHugePage = std::size_t{2} << 20, kPage = std::size_t{4} << 10;

// A mapping of its own: in the heap, what lives long would lie between what was freed long ago, and
// keep the system from having that back.
std::byte* map_zeros(std::size_t size) {
    const std::size_t wanted = kPage + size, room = wanted + kHugePage;
    void* const mapped =
        mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    auto* const begin = static_cast<std::byte*>(mapped);
    const std::size_t past = (reinterpret_cast<std::uintptr_t>(begin) + kPage) % kHugePage;
    const std::size_t skipped = past == 0 ? 0 : kHugePage - past;
    std::byte* const memory = begin + skipped + kPage;
    madvise(memory, size, MADV_HUGEPAGE);  // advice, not a need
    return place_header(memory, begin, room);
}
#endif

}  // namespace

std::byte* allocate_zeros(std::size_t bytes) {
    // Kernels prefetch and, in the last vector of a row, read a little beyond the end.
    const std::size_t size = bytes + 256;
#if defined(__linux__)
    if (size >= kHugePage) return map_zeros(size);
#endif
    void* base = nullptr;
    if (posix_memalign(&base, kLine, kLine + size) != 0) throw std::bad_alloc();
    std::memset(base, 0, kLine + size);
    return place_header(static_cast<std::byte*>(base) + kLine, base, 0);
}

void free_memory(void* memory) {
    if (memory == nullptr) return;
    Header header;
    std::memcpy(&header, static_cast<std::byte*>(memory) - kLine, sizeof header);
#if defined(__linux__)
    if (header.mapped != 0) {
        munmap(header.base, header.mapped);
        return;
    }
#endif
    std::free(header.base);
}

}  // namespace kept
