// Plain C++: pairs of 16-bit products, none of which leaves 16 bits.
#pragma once

#include "code_rows.h"

namespace kept::KEPT_NS {

typedef std::int32_t vi __attribute__((vector_size(16)));
typedef std::int16_t Shorts __attribute__((vector_size(16)));
typedef std::int8_t Bytes __attribute__((vector_size(8)));
constexpr int kQuadBytes = 8 * W;
// No set of registers holds a tile's sums: steps written out would only be more to compile.
#define KEPT_STEPS_IN_LOOP

// Two inputs of each of four columns, or of all of them.
struct Pairs {
    Shorts x[2];
};

struct Fours : Pairs {
    explicit Fours(const std::int8_t* p) {
        for (int i = 0; i < 2; ++i) {
            const std::int16_t a = p[2 * i], b = p[2 * i + 1];
            x[i] = Shorts{a, b, a, b, a, b, a, b};
        }
    }
};

using Quads = Pairs;

inline Quads load_quads(const std::byte* p) {
    Quads w;
    std::memcpy(&w, p, sizeof w);
    return w;
}
inline void store_quads(std::byte* p, const Quads& w) {
    std::memcpy(p, &w, sizeof w);
}
inline vi dot(vi sum, const Quads& w, const Fours& a) {
    for (int i = 0; i < 2; ++i) {
        const vi products = reinterpret_cast<vi>(w.x[i] * a.x[i]);
        sum += (products << 16 >> 16) + (products >> 16);
    }
    return sum;
}
inline vi start(const std::int32_t*) {
    return vi{};
}
inline vf to_float(vi x) {
    return __builtin_convertvector(x, vf);
}

struct Int8Quads {
    const std::byte* p;
    explicit Int8Quads(const std::byte* from) : p(from) {}
    Quads unit(int) const {
        Quads w;
        for (int i = 0; i < 2; ++i) {
            Bytes codes;
            std::memcpy(&codes, p + 8 * i, sizeof codes);
            w.x[i] = __builtin_convertvector(codes, Shorts);
        }
        return w;
    }
};

template <const std::uint8_t* kBytes>
struct LevelQuads {
    const std::byte* p;
    explicit LevelQuads(const std::byte* from) : p(from) {}
    KEPT_CALLED Quads unit(int u) const {
        Quads w;
        for (int c = 0; c < W; ++c)
            for (int i = 0; i < 4; ++i) {
                const int nibble = static_cast<int>(p[4 * c + i]) >> 4 * u & 15;
                w.x[i / 2][2 * c + i % 2] = static_cast<std::int8_t>(kBytes[nibble]);
            }
        return w;
    }
};

inline void store_codes(std::int8_t* p, vf x) {
    for (int i = 0; i < W; ++i) p[i] = static_cast<std::int8_t>(float_to_bits(x[i]) & 0xffu);
}

inline void order_for_int4(std::int8_t* p) {
    for (int first = 0; first < kGroup; first += 8) {
        std::int8_t found[8];
        for (int i = 0; i < 8; ++i) found[i] = p[first + i % 2 * 4 + i / 2];
        std::memcpy(p + first, found, sizeof found);
    }
}

}  // namespace kept::KEPT_NS
