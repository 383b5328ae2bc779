// One float as its bits, as bf16 and as half precision. In the namespace of an instruction set, as
// all that its kernels call; code for any CPU includes it with KEPT_NS portable.
#pragma once

#ifndef KEPT_NS
#error "KEPT_NS must name the instruction set"
#endif

#include <cstdint>
#include <cstring>

namespace kept::KEPT_NS {

inline float bits_to_float(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline std::uint32_t float_to_bits(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float bf16_to_float(std::uint16_t x) {
    return bits_to_float(static_cast<std::uint32_t>(x) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
inline std::uint16_t float_to_bf16(float x) {
    const std::uint32_t bits = float_to_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE half precision, rounding to nearest even.
inline std::uint16_t float_to_fp16(float x) {
    const std::uint32_t bits = float_to_bits(x), sign = bits >> 16 & 0x8000u;
    const std::uint32_t size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
    if (size >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (size < 0x38800000u) {  // subnormal: adding 0.5 puts the rounding where it belongs
        const float rounded = bits_to_float(size) + 0.5f;
        return static_cast<std::uint16_t>(sign | (float_to_bits(rounded) - 0x3f000000u));
    }
    const std::uint32_t rounded = size + 0xfffu + (size >> 13 & 1u) - 0x38000000u;
    return static_cast<std::uint16_t>(sign | rounded >> 13);
}

inline float fp16_to_float(std::uint16_t x) {
    const std::uint32_t sign = (x & 0x8000u) << 16, size = x & 0x7fffu;
    if (size >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (size & 0x3ffu) << 13);
    if (size < 0x400u) {
        const float value = static_cast<float>(size) * 5.9604644775390625e-8f;  // 2^-24
        return sign ? -value : value;
    }
    return bits_to_float(sign | ((size << 13) + 0x38000000u));
}

}  // namespace kept::KEPT_NS
