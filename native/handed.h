// Tensors of torch as Python hands them over. What a kernel would read or write by their address is
// checked here, in every build.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "step.h"

namespace kept {

enum class Number { u8, i8, i64, bf16, fp16, fp32 };

// Contiguous numbers in the CPU's memory; none where Python handed over None.
struct Handed {
    std::byte* data = nullptr;
    Number type = Number::u8;
    std::int64_t count = 0;
};

// Throws std::invalid_argument, which names `what`, for a tensor that lies elsewhere, has gaps, or
// is of numbers that no kernel knows.
Handed hand(nanobind::handle tensor, const char* what);

// The numbers of a tensor, null for None. Throws as `hand`, and for another type or fewer numbers
// than `needed`.
std::byte* numbers(nanobind::handle tensor, Number type, std::int64_t needed, const char* what);

template <class T>
constexpr Number number_of() {
    if constexpr (sizeof(T) == 1) return Number::u8;
    if constexpr (sizeof(T) == 2) return Number::bf16;
    if constexpr (sizeof(T) == 4) return Number::fp32;
    return Number::i64;
}
// The same of bytes, bf16 (as 16 bits), floats and 64-bit integers.
template <class T>
T* numbers(nanobind::handle tensor, std::int64_t needed, const char* what) {
    static_assert(sizeof(T) == 1 || sizeof(T) == 2 ||
                  std::is_same_v<std::remove_const_t<T>, float> ||
                  std::is_same_v<std::remove_const_t<T>, std::int64_t>);
    return reinterpret_cast<T*>(numbers(tensor, number_of<T>(), needed, what));
}

// Throws std::invalid_argument for None.
void need(nanobind::handle tensor, const char* what);

// `numbers` of a tensor that there must be, though it may be empty.
template <class T>
T* some(nanobind::handle tensor, std::int64_t needed, const char* what) {
    need(tensor, what);
    return numbers<T>(tensor, needed, what);
}

// One side of a layer in a cache: codes and scales (slots, G, capacity, width), of which a view may
// leave the first entries out; None: there are no scales. Throws std::invalid_argument for what
// does not fit the codec or each other.
LayerSide hand_side(Codec codec, nanobind::handle codes, nanobind::handle scales);

}  // namespace kept
