// Plain C++ over arrays of four, which compilers turn into SSE2 or NEON.
#pragma once

#include <algorithm>

namespace kept::KEPT_NS {

constexpr int W = 4;
constexpr bool kTransposesInRegisters = false;  // beside sums
constexpr int kMaxRows = 2;

// Functions that go through a vector's numbers one at a time are called: written into each loop
// that the kernels unroll, they would be most of what a build compiles, and the call is the least
// of them.
#define KEPT_CALLED __attribute__((noinline))

typedef float vf __attribute__((vector_size(16)));
typedef std::uint32_t vb __attribute__((vector_size(16)));

inline vf zero() {
    return vf{};
}
inline vf set1(float x) {
    return vf{x, x, x, x};
}
inline vf load(const float* p) {
    vf x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline void store(float* p, vf x) {
    std::memcpy(p, &x, sizeof x);
}
inline void store_past_caches(float* p, vf x) {
    store(p, x);
}
inline void settle_stores() {}
inline vf fma(vf a, vf b, vf c) {
    return a * b + c;
}
inline vf add(vf a, vf b) {
    return a + b;
}
inline vf sub(vf a, vf b) {
    return a - b;
}
inline vf mul(vf a, vf b) {
    return a * b;
}
inline vf div(vf a, vf b) {
    return a / b;
}
inline vf max(vf a, vf b) {
    return a > b ? a : b;
}
inline vf min(vf a, vf b) {
    return a < b ? a : b;
}
inline vf abs(vf a) {
    return reinterpret_cast<vf>(reinterpret_cast<vb>(a) & 0x7fffffffu);
}
KEPT_CALLED inline vf round_even(vf a) {
    vf out;
    for (int i = 0; i < W; ++i) out[i] = std::nearbyintf(a[i]);
    return out;
}
inline vf where_less(vf x, vf y, vf a, vf b) {
    return x < y ? a : b;
}
KEPT_CALLED inline vf select(std::uint64_t bits, vf a, vf b) {
    vf out;
    for (int i = 0; i < W; ++i) out[i] = bits >> i & 1 ? a[i] : b[i];
    return out;
}
inline bool any_nan(vf x) {
    bool found = false;
    for (int i = 0; i < W; ++i) found |= x[i] != x[i];
    return found;
}
inline bool any_not_less(vf x, vf y) {
    bool found = false;
    for (int i = 0; i < W; ++i) found |= !(x[i] < y[i]);
    return found;
}
KEPT_CALLED inline vf scale_by_power(vf x, vf n) {
    vb power;
    for (int i = 0; i < W; ++i)
        power[i] = static_cast<std::uint32_t>(static_cast<int>(n[i]) + 127) << 23;
    return x * reinterpret_cast<vf>(power);
}
KEPT_CALLED inline vf floor_from(vf x,
                                 float low) {  // of what is at least `low`, which others become
    vf out;
    for (int i = 0; i < W; ++i) out[i] = x[i] < low ? low : std::floor(x[i]);
    return out;
}
inline vf above_floor(vf x) {
    const vf floor = floor_from(x, -126.0f);
    return x < floor ? zero() : x - floor;
}
inline vf scale_by_floor(vf p, vf x) {
    return x < -126.0f ? zero() : scale_by_power(p, floor_from(x, -126.0f));
}
inline float reduce_add(vf x) {
    return (x[0] + x[2]) + (x[1] + x[3]);
}
inline float reduce_max(vf x) {
    return std::max(std::max(x[0], x[1]), std::max(x[2], x[3]));
}

inline vb load_pairs(const void* p) {
    vb x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline void store_pairs(void* p, vb x) {
    std::memcpy(p, &x, sizeof x);
}
inline vb set1_pair(const std::uint16_t* p) {
    std::uint32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return vb{pair, pair, pair, pair};
}

inline vf dp(vf acc, vb a, vb b) {
    acc = reinterpret_cast<vf>(a << 16) * reinterpret_cast<vf>(b << 16) + acc;
    return reinterpret_cast<vf>(a & 0xffff0000u) * reinterpret_cast<vf>(b & 0xffff0000u) + acc;
}
inline vf load_bf16(const std::uint16_t* p) {
    const vb bits{p[0], p[1], p[2], p[3]};
    return reinterpret_cast<vf>(bits << 16);
}
KEPT_CALLED inline vf load_fp16(const std::uint16_t* p) {
    return vf{fp16_to_float(p[0]), fp16_to_float(p[1]), fp16_to_float(p[2]), fp16_to_float(p[3])};
}
KEPT_CALLED inline vf nearest_bf16(vf x) {
    const vb bits = reinterpret_cast<vb>(x);
    const vb rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    vb out;
    for (int i = 0; i < W; ++i) out[i] = x[i] != x[i] ? bits[i] | 0x400000u : rounded[i];
    return reinterpret_cast<vf>(out & 0xffff0000u);
}
inline void store_bf16(std::uint16_t* p, vf x) {
    const vb bits = reinterpret_cast<vb>(nearest_bf16(x));
    for (int i = 0; i < W; ++i) p[i] = static_cast<std::uint16_t>(bits[i] >> 16);
}

KEPT_INLINE void prefetch_near(const void* p) {
#if defined(__x86_64__)
    // By hand: GCC finds that a function which only prefetches has no effect, and drops its calls.
    asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
#elif defined(__aarch64__)
    asm volatile("prfm pldl1keep, %0" : : "Q"(*static_cast<const char*>(p)));
#else
    __builtin_prefetch(p);
#endif
}

inline std::uint32_t small_int_to_bf16(int x) {
    const float f = static_cast<float>(x);
    std::uint32_t bits;
    std::memcpy(&bits, &f, sizeof bits);
    return bits >> 16;  // exact: eight significant bits
}

struct Int8Codes {
    std::int8_t p[4 * W];
    explicit Int8Codes(const std::byte* from, const std::uint8_t*) { std::memcpy(p, from, 4 * W); }
    Int8Codes(vb codes, const std::uint8_t*) { std::memcpy(p, &codes, 4 * W); }
    KEPT_CALLED vb unit(int u) const {
        vb out;
        for (int c = 0; c < W; ++c)
            out[c] = small_int_to_bf16(p[8 * u + 2 * c]) | small_int_to_bf16(p[8 * u + 2 * c + 1])
                                                               << 16;
        return out;
    }
};

struct Int4Codes {
    const std::uint16_t *p, *table;
    explicit Int4Codes(const std::byte* from, const std::uint16_t* levels)
        : p(reinterpret_cast<const std::uint16_t*>(from)), table(levels) {}
    KEPT_CALLED vb unit(int u) const {
        vb out;
        for (int c = 0; c < W; ++c)
            out[c] = table[p[2 * c] >> 4 * u & 15] |
                     static_cast<std::uint32_t>(table[p[2 * c + 1] >> 4 * u & 15]) << 16;
        return out;
    }
};

KEPT_INLINE void transpose(vb r[W]) {
    for (int i = 0; i < W; ++i)
        for (int j = i + 1; j < W; ++j) {
            const std::uint32_t x = r[i][j];
            r[i][j] = r[j][i];
            r[j][i] = x;
        }
}

}  // namespace kept::KEPT_NS
