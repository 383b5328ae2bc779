#pragma once

#include <cstddef>

namespace kept {

// Zeroed memory on huge pages where it is large and the system has them. Throws std::bad_alloc.
std::byte* allocate_zeros(std::size_t bytes);
void free_memory(void* memory);  // what allocate_zeros gave, or null

}  // namespace kept
