#include "dispatch.h"

#include <cstring>
#include <vector>

#include "cpu_features.h"

namespace kept {

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx512bf16, kernels_avx512, kernels_avx2;
#endif

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    const CpuFeatures& f = cpu_features();
    const bool avx2 = f.avx2 && f.fma && f.f16c;
    const bool avx512 = avx2 && f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl;
    if (avx512 && f.avx512_bf16 && f.avx512_vbmi) found.push_back(&kernels_avx512bf16);
    if (avx512) found.push_back(&kernels_avx512);
    if (avx2) found.push_back(&kernels_avx2);
#endif
    found.push_back(&kernels_portable);
    return found;
}

const Kernels* find_kernels(const char* name) {
    for (const Kernels* kernels : available_kernels())
        if (std::strcmp(kernels->name, name) == 0) return kernels;
    return nullptr;
}

std::int64_t linear_scratch(std::int64_t rows) {
    constexpr std::int64_t kExpanded =
        kSliceInputs * kPanel / 2;  // a slice of bf16 codes, in floats
    return kExpanded + rows * kPanel;
}

std::int64_t attend_scratch(const AttentionShape& shape) {
    const std::int64_t share = shape.heads / shape.kv_heads;
    const std::int64_t q = query_rows(share) * share, padded = round_up(shape.head_dim, 32);
    const std::int64_t groups = padded / 32;
    return q * padded * 3 + padded * kTile * 2 + q * kTile * (2 + groups) + groups * kTile * 2 +
           q * 8 + 1024;
}

}  // namespace kept
