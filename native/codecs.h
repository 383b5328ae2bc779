// How keys and values are stored: encoding new ones, and reading stored ones as floats.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "simd.h"

namespace kept::KEPT_NS {

// The scale of a group of numbers with codes up to `limit`: the least bf16 not below the quotient,
// or NaN where one of them is not finite.
inline std::uint16_t group_scale(const float* x, std::int64_t count, float limit) {
    float size = 0;
    bool finite = true;
    for (std::int64_t i = 0; i < count; ++i) {
        size = std::max(size, std::fabs(x[i]));
        finite = finite && std::isfinite(x[i]);
    }
    if (!finite) return 0x7fc0;
    return static_cast<std::uint16_t>((float_to_bits(size / limit) + 0xffffu) >> 16);
}

// The scale by which the number farthest from zero, the positive one of two, becomes -8.
inline std::uint16_t signed_scale(const float* x, std::int64_t count) {
    float high = x[0], low = x[0];
    bool finite = true;
    for (std::int64_t i = 0; i < count; ++i) {
        high = std::max(high, x[i]);
        low = std::min(low, x[i]);
        finite = finite && std::isfinite(x[i]);
    }
    if (!finite) return 0x7fc0;
    const std::uint16_t scale = float_to_bf16((high >= -low ? high : low) / -8.0f);
    return scale == 0x8000 ? 0 : scale;
}

// A scale of zero belongs to zeros, and to numbers so small that their scale underflowed.
inline float code_of(float x, float scale, float low, float high) {
    const float quotient = x / (scale == 0 ? 1.0f : scale);
    if (quotient != quotient) return 0;
    return std::min(std::max(std::nearbyintf(quotient), low), high);
}

// Stores one vector; `entry` counts over (slots, G, capacity).
inline void encode(const Stored& to, std::int64_t entry, const float* x, std::int64_t head_dim) {
    std::byte* codes = to.codes + entry * code_bytes(to.codec, head_dim);
    std::uint16_t* scales = to.scales + entry * num_scales(to.codec, head_dim);
    switch (to.codec) {
        case Codec::fp32:
            std::memcpy(codes, x, 4 * static_cast<std::size_t>(head_dim));
            break;
        case Codec::bf16:
            for (std::int64_t i = 0; i < head_dim; ++i)
                reinterpret_cast<std::uint16_t*>(codes)[i] = float_to_bf16(x[i]);
            break;
        case Codec::fp16:
            for (std::int64_t i = 0; i < head_dim; ++i)
                reinterpret_cast<std::uint16_t*>(codes)[i] = float_to_fp16(x[i]);
            break;
        case Codec::int8: {
            scales[0] = group_scale(x, head_dim, 127.0f);
            const float scale = bf16_to_float(scales[0]);
            for (std::int64_t i = 0; i < head_dim; ++i)
                reinterpret_cast<std::int8_t*>(codes)[i] =
                    static_cast<std::int8_t>(code_of(x[i], scale, -127, 127));
            break;
        }
        case Codec::int4:
            for (std::int64_t first = 0; first < head_dim; first += 32) {
                const std::int64_t count = std::min<std::int64_t>(32, head_dim - first);
                scales[first / 32] = signed_scale(x + first, count);
                const float scale = bf16_to_float(scales[first / 32]);
                for (std::int64_t i = first; i < first + count; i += 2) {
                    const int low = static_cast<int>(code_of(x[i], scale, -8, 7)) + 8;
                    const int high = i + 1 < head_dim
                                         ? static_cast<int>(code_of(x[i + 1], scale, -8, 7)) + 8
                                         : 8;
                    codes[i / 2] = static_cast<std::byte>(low | high << 4);
                }
            }
            break;
    }
}

// Whether a vector as it is stored is free of infinities and NaN, of whose codec `scales` are.
// Codes are: those of what is not finite are zeros under a scale of NaN.
inline bool all_finite(Codec codec, const std::byte* codes, const std::uint16_t* scales,
                       std::int64_t head_dim) {
    bool finite = true;
    if (codec == Codec::fp32) {
        for (std::int64_t i = 0; i < head_dim; ++i) {
            std::uint32_t bits;
            std::memcpy(&bits, codes + 4 * i, sizeof bits);
            finite &= (bits & 0x7f800000u) != 0x7f800000u;
        }
    } else if (codec == Codec::bf16 || codec == Codec::fp16) {
        const std::uint16_t exponent = codec == Codec::bf16 ? 0x7f80 : 0x7c00;
        for (std::int64_t i = 0; i < head_dim; ++i) {
            std::uint16_t bits;
            std::memcpy(&bits, codes + 2 * i, sizeof bits);
            finite &= (bits & exponent) != exponent;
        }
    }
    for (std::int64_t i = 0; i < num_scales(codec, head_dim); ++i)
        finite &= (scales[i] & 0x7f80) != 0x7f80;
    return finite;
}

// Reads one vector as floats.
inline void read_floats(Codec codec, const std::byte* codes, const std::uint16_t* scales,
                        std::int64_t head_dim, float* out) {
    switch (codec) {
        case Codec::fp32:
            std::memcpy(out, codes, 4 * static_cast<std::size_t>(head_dim));
            break;
        case Codec::fp16:
        case Codec::bf16: {
            const auto* halves = reinterpret_cast<const std::uint16_t*>(codes);
            const bool is_fp16 = codec == Codec::fp16;
            std::int64_t i = 0;
            for (; i + W <= head_dim; i += W)
                store(out + i, is_fp16 ? load_fp16(halves + i) : load_bf16(halves + i));
            for (; i < head_dim; ++i)
                out[i] = is_fp16 ? fp16_to_float(halves[i]) : bf16_to_float(halves[i]);
            break;
        }
        case Codec::int8: {
            const float scale = bf16_to_float(scales[0]);
            for (std::int64_t i = 0; i < head_dim; ++i)
                out[i] = static_cast<float>(reinterpret_cast<const std::int8_t*>(codes)[i]) * scale;
            break;
        }
        case Codec::int4:
            for (std::int64_t i = 0; i < head_dim; ++i) {
                const auto pair = static_cast<int>(codes[i / 2]);
                const int code = (i % 2 ? pair >> 4 : pair & 15) - 8;
                out[i] = static_cast<float>(code) * bf16_to_float(scales[i / 32]);
            }
            break;
    }
}

}  // namespace kept::KEPT_NS
