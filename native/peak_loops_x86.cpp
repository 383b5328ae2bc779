#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu_features.h"
#include "peak_loops.h"

#define KEPT_TARGET(names) __attribute__((target(names)))

namespace kept {
namespace {

// Enough independent sums to hide the latency of two units (4 to 6 cycles each), few enough to fit
// the 16 registers of AVX2 together with the operands.
constexpr int kSums = 12;

// Adds up the lanes. Not the header's own reduction: in GCC 12 that one warns.
template <class Lane, class Vector>
double total_of(const Vector& vector) {
    Lane lanes[sizeof(Vector) / sizeof(Lane)];
    std::memcpy(lanes, &vector, sizeof vector);
    double total = 0;
    for (const Lane lane : lanes) total += static_cast<double>(lane);
    return total;
}

KEPT_TARGET("avx512f") double fp32_avx512(std::int64_t iterations) {
    const __m512 a = _mm512_set1_ps(1e-3f), b = _mm512_set1_ps(1e-3f);
    __m512 sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm512_setzero_ps();
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = _mm512_fmadd_ps(a, b, sums[i]);
    for (int i = 1; i < kSums; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
    return total_of<float>(sums[0]);
}

KEPT_TARGET("avx2,fma") double fp32_avx2(std::int64_t iterations) {
    const __m256 a = _mm256_set1_ps(1e-3f), b = _mm256_set1_ps(1e-3f);
    __m256 sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm256_setzero_ps();
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = _mm256_fmadd_ps(a, b, sums[i]);
    for (int i = 1; i < kSums; ++i) sums[0] = _mm256_add_ps(sums[0], sums[i]);
    return total_of<float>(sums[0]);
}

// SSE2, which every x86-64 CPU has, has no fused multiply-add.
double fp32_sse2(std::int64_t iterations) {
    const __m128 a = _mm_set1_ps(0.999f), b = _mm_set1_ps(1e-3f);
    __m128 sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm_setzero_ps();
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = _mm_add_ps(_mm_mul_ps(sums[i], a), b);
    for (int i = 1; i < kSums; ++i) sums[0] = _mm_add_ps(sums[0], sums[i]);
    return total_of<float>(sums[0]);
}

KEPT_TARGET("avx512f,avx512bf16") double bf16_avx512(std::int64_t iterations) {
    const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3f), _mm512_set1_ps(1e-3f));
    __m512 sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm512_setzero_ps();
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, a);
    for (int i = 1; i < kSums; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
    return total_of<float>(sums[0]);
}

KEPT_TARGET("avx512f,avx512vnni") double int8_vnni(std::int64_t iterations) {
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
    __m512i sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm512_setzero_si512();
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
    for (int i = 1; i < kSums; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    return total_of<std::int32_t>(sums[0]);
}

KEPT_TARGET("avx2,avxvnni") double int8_avx_vnni(std::int64_t iterations) {
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
    __m256i sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm256_setzero_si256();
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n)
        KEPT_UNROLL for (int i = 0; i < kSums; ++i) sums[i] =
            _mm256_dpbusd_avx_epi32(sums[i], a, b);
    for (int i = 1; i < kSums; ++i) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
    return total_of<std::int32_t>(sums[0]);
}

KEPT_TARGET("avx512bw") double int8_avx512(std::int64_t iterations) {
    __m512i a = _mm512_set1_epi8(3);
    const __m512i b = _mm512_set1_epi8(-5), ones = _mm512_set1_epi16(1);
    __m512i sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm512_setzero_si512();
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n) KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
            KEPT_HIDE(a);  // as below
            const __m512i pairs = _mm512_maddubs_epi16(a, b);
            sums[i] = _mm512_add_epi32(sums[i], _mm512_madd_epi16(pairs, ones));
        }
    for (int i = 1; i < kSums; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    return total_of<std::int32_t>(sums[0]);
}

KEPT_TARGET("avx2") double int8_avx2(std::int64_t iterations) {
    __m256i a = _mm256_set1_epi8(3);
    const __m256i b = _mm256_set1_epi8(-5), ones = _mm256_set1_epi16(1);
    __m256i sums[kSums];
    KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm256_setzero_si256();
        KEPT_HIDE(sums[i]);
    }
    for (std::int64_t n = 0; n < iterations; ++n) KEPT_UNROLL for (int i = 0; i < kSums; ++i) {
            KEPT_HIDE(a);  // or the product, the same each time, would be hoisted
            const __m256i pairs = _mm256_maddubs_epi16(a, b);
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, ones));
        }
    for (int i = 1; i < kSums; ++i) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
    return total_of<std::int32_t>(sums[0]);
}

struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// Tiles 0 to 5 are sums, 6 and 7 operands; all of full size, 16 rows of 64 bytes.
TileConfig full_tiles() {
    TileConfig config;
    for (int i = 0; i < 8; ++i) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    return config;
}

constexpr int kTileSums = 6;

// Tile registers are named by constants in the instruction: a macro, since no loop can do that.
#define KEPT_TILE_LOOP(dot_product, fill)           \
    const TileConfig config = full_tiles();         \
    alignas(64) std::uint32_t values[16 * 16];      \
    for (auto& value : values) value = fill;        \
    _tile_loadconfig(&config);                      \
    _tile_zero(0);                                  \
    _tile_zero(1);                                  \
    _tile_zero(2);                                  \
    _tile_zero(3);                                  \
    _tile_zero(4);                                  \
    _tile_zero(5);                                  \
    _tile_loadd(6, values, 64);                     \
    _tile_loadd(7, values, 64);                     \
    for (std::int64_t n = 0; n < iterations; ++n) { \
        dot_product(0, 6, 7);                       \
        dot_product(1, 6, 7);                       \
        dot_product(2, 6, 7);                       \
        dot_product(3, 6, 7);                       \
        dot_product(4, 6, 7);                       \
        dot_product(5, 6, 7);                       \
    }                                               \
    _tile_stored(0, values, 64);                    \
    _tile_release();                                \
    return values[0]

KEPT_TARGET("amx-tile,amx-bf16") double bf16_amx(std::int64_t iterations) {
    KEPT_TILE_LOOP(_tile_dpbf16ps, 0x3a833a83u);  // 0x3a83 is 1e-3 in bf16
}

KEPT_TARGET("amx-tile,amx-int8") double int8_amx(std::int64_t iterations) {
    KEPT_TILE_LOOP(_tile_dpbssd, 0x03fb03fbu);  // 3 and -5
}

#undef KEPT_TILE_LOOP

}  // namespace

std::optional<PeakLoop> best_peak_loop(MatrixDtype dtype, const CpuFeatures& has) {
    // Multiply-adds in one instruction, times two operations, times instructions per iteration.
    constexpr double kVector = 2.0 * kSums, kTile = 2.0 * kTileSums;
    switch (dtype) {
        case MatrixDtype::fp32:
            if (has.avx512f) return PeakLoop{"AVX-512 VFMADD", 16 * kVector, fp32_avx512};
            if (has.avx2 && has.fma) return PeakLoop{"AVX2 VFMADD", 8 * kVector, fp32_avx2};
            return PeakLoop{"SSE2 MULPS, ADDPS", 4 * kVector, fp32_sse2};
        case MatrixDtype::bf16:
            if (has.amx_bf16) return PeakLoop{"AMX TDPBF16PS", 16 * 16 * 32 * kTile, bf16_amx};
            if (has.avx512_bf16) return PeakLoop{"AVX-512 VDPBF16PS", 32 * kVector, bf16_avx512};
            // Without an instruction of its own bf16 is widened, and bound by fp32's.
            if (has.avx512f)
                return PeakLoop{"AVX-512 VFMADD, bf16 widened", 16 * kVector, fp32_avx512};
            if (has.avx2 && has.fma)
                return PeakLoop{"AVX2 VFMADD, bf16 widened", 8 * kVector, fp32_avx2};
            return PeakLoop{"SSE2 MULPS, ADDPS, bf16 widened", 4 * kVector, fp32_sse2};
        case MatrixDtype::int8:
            if (has.amx_int8) return PeakLoop{"AMX TDPBSSD", 16 * 16 * 64 * kTile, int8_amx};
            if (has.avx512_vnni) return PeakLoop{"AVX-512 VPDPBUSD", 64 * kVector, int8_vnni};
            if (has.avx512bw)
                return PeakLoop{"AVX-512 VPMADDUBSW, VPMADDWD", 64 * kVector, int8_avx512};
            if (has.avx_vnni) return PeakLoop{"AVX-VNNI VPDPBUSD", 32 * kVector, int8_avx_vnni};
            if (has.avx2) return PeakLoop{"AVX2 VPMADDUBSW, VPMADDWD", 32 * kVector, int8_avx2};
            return std::nullopt;
    }
    return std::nullopt;
}

}  // namespace kept

#endif
