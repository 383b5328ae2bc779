// Every instruction set of this CPU held to the portable kernels, over numbers at random.
//
// What kernels promise to be equal is compared bit for bit, the rest to the bound of its rounding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "../kernels.h"
#include "../pack.h"

namespace kept {

constexpr float kEps = 0x1p-23f;  // of fp32, in which every kernel adds up

// Ends the process with what was looked for where a law does not hold.
inline void require(bool holds, const std::string& law) {
    if (holds) return;
    std::fprintf(stderr, "FAILED: %s\n", law.c_str());
    std::exit(1);
}

class Random {
  public:
    explicit Random(unsigned seed) : source_(seed) {}

    float normal() { return normal_(source_); }
    std::int64_t below(std::int64_t end) {
        return static_cast<std::int64_t>(source_() % static_cast<std::uint64_t>(end));
    }
    std::vector<float> normals(std::int64_t count, float size = 1) {
        std::vector<float> found(static_cast<std::size_t>(count));
        for (float& x : found) x = size * normal();
        return found;
    }

  private:
    std::mt19937_64 source_;
    std::normal_distribution<float> normal_;
};

template <class T>
std::vector<T> zeros(std::int64_t count) {
    return std::vector<T>(static_cast<std::size_t>(count));
}

inline float widened(std::uint16_t bf16) {
    const std::uint32_t bits = static_cast<std::uint32_t>(bf16) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline std::uint16_t rounded(float x) {  // of finite numbers
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Rows (count, width) padded with zeros to a stride, as bf16 or floats.
struct Rows {
    std::int64_t width, stride;
    bool is_bf16;
    std::vector<float> floats;
    std::vector<std::uint16_t> halves;

    Rows(std::int64_t count, std::int64_t of, bool as_bf16)
        : width(of), stride(round_up(of, 32)), is_bf16(as_bf16) {
        if (is_bf16)
            halves = zeros<std::uint16_t>(count * stride);
        else
            floats = zeros<float>(count * stride);
    }
    Rows(Random& random, std::int64_t count, std::int64_t of, bool as_bf16)
        : Rows(count, of, as_bf16) {
        for (std::int64_t row = 0; row < count; ++row)
            for (std::int64_t i = 0; i < width; ++i) put(row, i, random.normal());
    }
    std::size_t at(std::int64_t row, std::int64_t i) const {
        return static_cast<std::size_t>(row * stride + i);
    }
    void put(std::int64_t row, std::int64_t i, float x) {
        if (is_bf16)
            halves[at(row, i)] = rounded(x);
        else
            floats[at(row, i)] = x;
    }
    float get(std::int64_t row, std::int64_t i) const {
        return is_bf16 ? widened(halves[at(row, i)]) : floats[at(row, i)];
    }
    ActRows from(std::int64_t row = 0) {
        void* data = is_bf16 ? static_cast<void*>(halves.data() + row * stride)
                             : static_cast<void*>(floats.data() + row * stride);
        return {data, stride, is_bf16};
    }
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}
inline bool same_bits(const Rows& a, const Rows& b) {
    return same_bits(a.floats, b.floats) && same_bits(a.halves, b.halves);
}

inline void require_near(double found, double expected, double bound, const std::string& law) {
    if (std::fabs(found - expected) <= bound) return;  // NaN is not
    require(false, law + ": " + std::to_string(found) + " for " + std::to_string(expected) +
                       ", further off than " + std::to_string(bound));
}

// A packed matrix and its numbers (num_out, num_in).
struct Matrix {
    Weights weights;
    std::vector<std::byte> data;
    std::vector<float> channel_scales, bias, numbers;
    std::vector<std::uint16_t> group_scales;

    Matrix(Random& random, Format format, std::int64_t num_out, std::int64_t num_in, bool gated);
    Matrix(const Matrix&) = delete;
    Matrix& operator=(const Matrix&) = delete;
};

const char* name_of(Format format);
const char* name_of(Codec codec);

// Each holds `kernels` to `portable`.
void hold_linear(const Kernels& kernels, const Kernels& portable);
void hold_codes(const Kernels& kernels, const Kernels& portable);
void hold_rows(const Kernels& kernels, const Kernels& portable);
void hold_stored(const Kernels& kernels, const Kernels& portable);
void hold_attention(const Kernels& kernels, const Kernels& portable);

}  // namespace kept
