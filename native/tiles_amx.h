// Tiles of AMX (Intel SDM, volume 2). Written as assembly since GCC 12's intrinsics tell the
// compiler neither that a load reads memory nor that a configuration is longer than a pointer.
#pragma once

#include "simd.h"
#include "tiles.h"

namespace kept::KEPT_NS {

struct AmxTiles {
    static void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
    static void release() { asm volatile("tilerelease"); }

    template <int t>
    static void zero() {
        asm volatile("tilezero %%tmm%c0" ::"i"(t));
    }
    template <int t>
    static void load(const void* from, std::int64_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(t) : "memory");
    }
    template <int t>
    static void load_passing(const void* from, std::int64_t stride) {
        asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(t) : "memory");
    }
    template <int t>
    static void store(void* to, std::int64_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(t) : "memory");
    }
    static void settle() { asm volatile("" ::: "memory"); }
    template <int t>
    static void load_settled(const void* from, std::int64_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(t));
    }
    template <int t>
    static void load_settled_passing(const void* from, std::int64_t stride) {
        asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(t));
    }
    template <int t>
    static void store_rows(void* to) {
        asm volatile("tilestored %%tmm%c3, (%1,%2,1)"
                     : "=m"(*static_cast<Whole*>(to))
                     : "r"(to), "r"(std::int64_t{kTileRowBytes}), "i"(t));
    }
    template <int c, int a, int b>
    static void dot() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
    }

  private:
    struct Whole {
        std::byte bytes[kTileRows * kTileRowBytes];
    };
};

}  // namespace kept::KEPT_NS
