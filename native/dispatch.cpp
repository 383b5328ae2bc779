#include "dispatch.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu_features.h"

namespace kept {

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx512bf16, kernels_avx512, kernels_avx2;
#endif

// What instructions add to those of another set; the rest is compiled once for both.
namespace amx_emulated {
void linear_by_tiles(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                     float* scratch);
}
#if defined(__x86_64__)
namespace amx {
void linear_by_tiles(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                     float* scratch);
}
namespace avx512vnni {
void linear_codes(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                  float* scratch);
void encode_rows(const EncodeRowsArgs& args, std::int64_t first_row, std::int64_t last_row);
void attend_codes(const AttendArgs& args, const AttendUnit& unit, float* scratch);
}  // namespace avx512vnni
#endif

namespace {

Kernels with_tiles(const Kernels& base, const char* name, decltype(Kernels::linear) linear) {
    Kernels found = base;
    found.name = name, found.linear = linear;
    return found;
}

// Here and not beside their products: what runs as the module is loaded runs on any CPU.
const Kernels kernels_amx_emulated =
    with_tiles(kernels_portable, "amx_emulated", amx_emulated::linear_by_tiles);
#if defined(__x86_64__)
Kernels with_vnni(const Kernels& base) {
    Kernels found = base;
    found.name = "avx512vnni";
    found.linear_codes = avx512vnni::linear_codes, found.encode_rows = avx512vnni::encode_rows;
    found.attend = avx512vnni::attend_codes;
    return found;
}

const Kernels kernels_amx = with_tiles(kernels_avx512bf16, "amx", amx::linear_by_tiles);
const Kernels kernels_avx512vnni = with_vnni(kernels_avx512);
#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    const CpuFeatures& f = cpu_features();
    const bool avx2 = f.avx2 && f.fma && f.f16c;
    const bool avx512 = avx2 && f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl;
    const bool avx512vnni = avx512 && f.avx512_vnni;
    const bool avx512bf16 = avx512vnni && f.avx512_bf16 && f.avx512_vbmi;
    if (avx512bf16 && f.amx_tile && f.amx_bf16) found.push_back(&kernels_amx);
    if (avx512bf16) found.push_back(&kernels_avx512bf16);
    if (avx512vnni) found.push_back(&kernels_avx512vnni);
    if (avx512) found.push_back(&kernels_avx512);
    if (avx2) found.push_back(&kernels_avx2);
#endif
    found.push_back(&kernels_portable);
    return found;
}

std::vector<const Kernels*> emulated_kernels() {
    return {&kernels_amx_emulated};
}

const Kernels* find_kernels(const char* name) {
    for (const auto& list : {available_kernels(), emulated_kernels()})
        for (const Kernels* kernels : list)
            if (std::strcmp(kernels->name, name) == 0) return kernels;
    return nullptr;
}

std::int64_t linear_scratch(const Weights& weights, std::int64_t rows) {
    constexpr std::int64_t kExpanded =
        kSliceInputs * kPanel / 2;  // a slice of bf16 codes, in floats
    // Tiles keep the sums of one block, and of codes a few inputs or whole panels.
    const std::int64_t inputs = weights.padded_in();
    const bool whole = weights.format == Format::int8 && rows > kTileBlock;
    const std::int64_t panels =
        whole ? tile_panels(inputs) * panel_bytes(Format::bf16, inputs) / 4 : 0;
    return std::max(kExpanded + rows * kPanel, kTileBlock * kPanel + panels) + 16;  // to be aligned
}

std::int64_t attend_scratch(const AttentionShape& shape) {
    constexpr std::int64_t kLanes = 16, kMost = 12;  // of the widest vectors, and queries of a turn
    const std::int64_t share = shape.heads / shape.kv_heads;
    const std::int64_t q = query_rows(share) * share, padded = round_up(shape.head_dim, 64);
    const std::int64_t groups = padded / 32;
    // Queries and two states; keys, values and their copies; weights, scores and scales of a tile.
    return q * (3 * padded + kLanes + groups + 11) +
           kTile * (3 * padded + 2 * groups * (kMost + 1)) + 1024;
}

}  // namespace kept
