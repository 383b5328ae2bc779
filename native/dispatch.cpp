#include "dispatch.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "code_words.h"
#include "cpu_features.h"
#include "tile_cut.h"

namespace kept {

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx512bf16, kernels_avx512, kernels_avx2;
#elif defined(__aarch64__)
extern const Kernels kernels_neon;
#endif

using Linear = std::remove_pointer_t<decltype(Kernels::linear)>;
using EncodeRows = std::remove_pointer_t<decltype(Kernels::encode_rows)>;
using Attend = std::remove_pointer_t<decltype(Kernels::attend)>;

// What instructions add to those of another set; the rest is compiled once for both.
namespace amx_emulated {
Linear linear_by_tiles;
Attend attend_by_tiles;
}  // namespace amx_emulated
#if defined(__x86_64__)
namespace amx {
Linear linear_by_tiles;
Attend attend_by_tiles;
}  // namespace amx
namespace avx2 {
Linear linear_fixed;
}  // namespace avx2
namespace avx512 {
Linear linear_fixed;
}  // namespace avx512
namespace avx2vnni {
Linear linear_codes;
EncodeRows encode_rows;
Linear linear_fixed;
Attend attend_codes;
}  // namespace avx2vnni
namespace avx512vnni {
Linear linear_codes;
EncodeRows encode_rows;
Linear linear_fixed;
Attend attend_codes;
}  // namespace avx512vnni
#elif defined(__aarch64__)
namespace neondotprod {
Linear linear_codes;
}
namespace neonbf16 {
Linear linear_of_bf16;
Linear linear_codes_by_pairs;
}  // namespace neonbf16
#endif

namespace {

Kernels with_tiles(const Kernels& base, const char* name, decltype(Kernels::linear) linear,
                   decltype(Kernels::attend) attend) {
    Kernels found = base;
    found.name = name, found.linear = linear, found.attend = attend;
    return found;
}

// Here and not beside their products: what runs as the module is loaded runs on any CPU.
const Kernels kernels_amx_emulated = with_tiles(
    kernels_portable, "amx_emulated", amx_emulated::linear_by_tiles, amx_emulated::attend_by_tiles);
#if defined(__x86_64__)
// Weights of 4 bits as whole numbers, by `fixed`, and the others as before.
template <const Kernels& kBase, decltype(Kernels::linear) fixed>
void linear_of(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
               float* scratch) {
    const auto linear = is_nibbles(args.weights->format) ? fixed : kBase.linear;
    linear(args, first_panel, last_panel, scratch);
}

template <const Kernels& kBase, decltype(Kernels::linear) fixed>
Kernels with_fixed() {
    Kernels found = kBase;
    found.linear = linear_of<kBase, fixed>;
    return found;
}

Kernels with_codes(const Kernels& base, const char* name, decltype(Kernels::linear_codes) linear,
                   decltype(Kernels::encode_rows) encode, decltype(Kernels::attend) attend) {
    Kernels found = base;
    found.name = name, found.linear_codes = linear, found.encode_rows = encode;
    found.attend = attend;
    return found;
}

const Kernels fixed_avx512bf16 = with_fixed<kernels_avx512bf16, avx512vnni::linear_fixed>();

// From so many rows on tiles are the faster way through weights of 4 bits, to the same bits.
constexpr std::int64_t kLeastTileRows = 9;

void linear_of_amx(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                   float* scratch) {
    const bool is_fixed = is_nibbles(args.weights->format) && args.rows < kLeastTileRows;
    const auto linear = is_fixed ? avx512vnni::linear_fixed : amx::linear_by_tiles;
    linear(args, first_panel, last_panel, scratch);
}

const Kernels kernels_amx =
    with_tiles(kernels_avx512bf16, "amx", linear_of_amx, amx::attend_by_tiles);
const Kernels fixed_avx512 = with_fixed<kernels_avx512, avx512::linear_fixed>();
const Kernels fixed_avx2 = with_fixed<kernels_avx2, avx2::linear_fixed>();
const Kernels kernels_avx512vnni =
    with_codes(with_fixed<kernels_avx512, avx512vnni::linear_fixed>(), "avx512vnni",
               avx512vnni::linear_codes, avx512vnni::encode_rows, avx512vnni::attend_codes);
const Kernels kernels_avx2vnni =
    with_codes(with_fixed<kernels_avx2, avx2vnni::linear_fixed>(), "avx2vnni",
               avx2vnni::linear_codes, avx2vnni::encode_rows, avx2vnni::attend_codes);
#elif defined(__aarch64__)
Kernels with_products(const char* name, decltype(Kernels::linear) linear,
                      decltype(Kernels::linear_codes) linear_codes) {
    Kernels found = kernels_neon;
    found.name = name, found.linear = linear, found.linear_codes = linear_codes;
    return found;
}

const Kernels kernels_neondotprod =
    with_products("neondotprod", kernels_neon.linear, neondotprod::linear_codes);
const Kernels kernels_neonbf16 =
    with_products("neonbf16", neonbf16::linear_of_bf16, neonbf16::linear_codes_by_pairs);
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
    if (avx512bf16) found.push_back(&fixed_avx512bf16);
    if (avx512vnni) found.push_back(&kernels_avx512vnni);
    if (avx512) found.push_back(&fixed_avx512);
    if (avx2 && f.avx_vnni) found.push_back(&kernels_avx2vnni);
    if (avx2) found.push_back(&fixed_avx2);
#elif defined(__aarch64__)
    const CpuFeatures& f = cpu_features();
    const bool neondotprod = f.neon && f.dotprod;
    if (neondotprod && f.bf16 && f.i8mm) found.push_back(&kernels_neonbf16);
    if (neondotprod) found.push_back(&kernels_neondotprod);
    if (f.neon) found.push_back(&kernels_neon);
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
    const std::int64_t inputs = weights.padded_in();
    const std::int64_t few = few_words(inputs) + kFewRows * kPanel;
    const std::int64_t many =
        kBlockWords * kBlockInputs + std::min(rows, kBlockRows) * kBlockPanels * kPanel;
    const std::int64_t blocks = kExpandInputs * kPanel + std::max(few, rows > 1 ? many : 0);
    const std::int64_t block = is_nibbles(weights.format) ? kGroupBlock : kTileBlock;
    const std::int64_t tiles = tile_scratch(inputs, weights.num_panels(), rows, block);
    CodeRows codes;
    codes.width = inputs;
    const std::int64_t coded = std::min(rows, code_block_rows(codes));
    const std::int64_t words = code_words(codes, coded) / static_cast<std::int64_t>(sizeof(float));
    return std::max({kExpanded + rows * kPanel + words, tiles, blocks}) + 16;  // to be aligned
}

std::int64_t attend_scratch(const AttentionShape& shape) {
    constexpr std::int64_t kLanes = 16, kMost = 16;  // of the widest vectors, and queries of a turn
    const std::int64_t share = shape.heads / shape.kv_heads;
    const std::int64_t q = std::max(share, kMaxQueries),
                       padded = round_up(std::max(shape.head_dim, shape.value_dim), 64);
    const std::int64_t groups = padded / 32;
    // Queries and two states; keys, values and their copies; weights, scores and scales of a tile;
    // what matrix tiles need besides.
    return q * (3 * padded + kLanes + groups + 13) +
           kTile * (3 * padded + groups * (3 * kMost + 2)) + kMost * (2 * padded + kTile) + 1024;
}

}  // namespace kept
