// Wide numbers times codes in plain C++: two inputs of 16 bits a step.
#pragma once

#include "codes.h"

namespace kept::KEPT_NS {

// Without a sign: what a NaN left may wrap.
typedef std::uint32_t vi __attribute__((vector_size(16)));
static_assert(W == 4);

// Of numbers within 2^22; of others anything.
inline vi wide_of(vf x) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: the lowest bits hold the whole number
    const vf rounded = add(x, set1(kRound));
    vi out;
    std::memcpy(&out, &rounded, sizeof out);
    return out - 0x4b400000u;
}
inline vf floats_of(vi x) {
    float out[W];
    for (int i = 0; i < W; ++i) out[i] = static_cast<float>(static_cast<std::int32_t>(x[i]));
    return load(out);
}
inline vi plus(vi a, vi b) {
    return a + b;
}
inline vi wide_set1(std::int32_t x) {
    const auto lane = static_cast<std::uint32_t>(x);
    return vi{lane, lane, lane, lane};
}
inline std::int32_t total_of(vi x) {
    return static_cast<std::int32_t>(x[0] + x[1] + x[2] + x[3]);
}
inline vi ordered(vi x, const std::int8_t*) {
    return x;
}

constexpr int kWideInputs = 2, kWideVectors = 2, kWideSums = 4;

inline void put_wide(std::byte* row, std::int64_t, std::int64_t i, vi x) {
    for (int lane = 0; lane < W; ++lane) {
        const auto code = static_cast<std::uint16_t>(x[lane] & 0xffffu);
        std::memcpy(row + 2 * (i + lane), &code, sizeof code);
    }
}
inline void put_weights(std::byte* row, const vi* x) {
    for (int i = 0; i < kTile / W; ++i) put_wide(row, 0, i * W, x[i]);
}
constexpr std::int64_t value_step(std::int64_t t) {
    return t / 2;
}

inline std::uint32_t lower(std::uint32_t pair) {
    return static_cast<std::uint32_t>(static_cast<std::int16_t>(pair & 0xffffu));
}
inline std::uint32_t upper(std::uint32_t pair) {
    return static_cast<std::uint32_t>(static_cast<std::int16_t>(pair >> 16));
}

// Adds to each of kRows sums over `steps` of rows of `a`, a_stride bytes apart, by vectors of
// codes; steps of those b_stride bytes apart.
template <int kRows, int kVectors>
KEPT_INLINE void add_wide(const std::byte* b, std::int64_t b_stride, const std::byte* a,
                          std::int64_t a_stride, std::int64_t, std::int64_t steps, LaterTile& ahead,
                          vi sums[kRows][kVectors]) {
    typedef std::int32_t Signed __attribute__((vector_size(16)));
    for (std::int64_t step = 0; step < steps; ++step, a += 4, b += b_stride) {
        if (step % kFetchSteps == 0) ahead.fetch();
        for (int v = 0; v < kVectors; ++v) {
            Signed codes;
            std::memcpy(&codes, b + 16 * v, sizeof codes);
            const vi low = reinterpret_cast<vi>(codes << 16 >> 16);
            const vi high = reinterpret_cast<vi>(codes >> 16);
            for (int r = 0; r < kRows; ++r) {
                std::uint32_t two;
                std::memcpy(&two, a + r * a_stride, sizeof two);
                sums[r][v] += low * lower(two) + high * upper(two);
            }
        }
    }
}

inline void write_pair(std::byte* to, int first, int second) {
    const std::uint32_t pair =
        (static_cast<std::uint32_t>(first) & 0xffffu) | static_cast<std::uint32_t>(second) << 16;
    std::memcpy(to, &pair, sizeof pair);
}

struct WideInt8 {
    static constexpr int kInWord = 4, kWords = W, kOffset = 0, kDims = 16;
    static constexpr std::int8_t kOrder[8] = {0, 1, 2, 3, 4, 5, 6, 7};

    static int code(std::uint32_t word, int i) { return static_cast<std::int8_t>(word >> 8 * i); }
    static int code(const std::byte* row, std::int64_t d) {
        return static_cast<std::int8_t>(row[d]);
    }
    static void keys(vb words, std::byte* to) {
        for (int i = 0; i < kInWord; i += 2, to += 4 * kTile)
            for (int lane = 0; lane < W; ++lane)
                write_pair(to + 4 * lane, code(words[lane], i), code(words[lane], i + 1));
    }
    static void values(const std::byte* const* rows, std::int64_t d, std::byte* to) {
        for (int i = 0; i < kDims; ++i)
            write_pair(to + 4 * i, code(rows[0], d + i), code(rows[1], d + i));
    }
    template <int kVectors>
    static void natural(vf*) {}
};

struct WideInt4 {
    static constexpr int kInWord = 8, kWords = W, kOffset = 0, kDims = 32;
    static constexpr std::int8_t kOrder[8] = {0, 1, 2, 3, 4, 5, 6, 7};

    static int code(std::uint32_t word, int i) { return static_cast<int>(word >> 4 * i & 15) - 8; }
    static int code(const std::byte* row, std::int64_t d) {
        return (static_cast<int>(row[d / 2]) >> 4 * (d % 2) & 15) - 8;
    }
    static void keys(vb words, std::byte* to) {
        for (int i = 0; i < kInWord; i += 2, to += 4 * kTile)
            for (int lane = 0; lane < W; ++lane)
                write_pair(to + 4 * lane, code(words[lane], i), code(words[lane], i + 1));
    }
    static void values(const std::byte* const* rows, std::int64_t d, std::byte* to) {
        for (int i = 0; i < kDims; ++i)
            write_pair(to + 4 * i, code(rows[0], d + i), code(rows[1], d + i));
    }
    template <int kVectors>
    static void natural(vf*) {}
};

}  // namespace kept::KEPT_NS
