#pragma once

#include <string_view>

namespace kept {

// What this CPU has and the operating system lets this process use.
struct CpuFeatures {
    // x86-64
    bool avx2 = false, fma = false, f16c = false;
    bool avx512f = false, avx512bw = false, avx512dq = false, avx512vl = false;
    bool avx_vnni = false, avx512_vnni = false, avx512_bf16 = false, avx512_vbmi = false;
    bool amx_tile = false, amx_bf16 = false, amx_int8 = false;
    // Arm
    bool neon = false, dotprod = false, bf16 = false, i8mm = false;
};

// Detected once. On Linux this also asks the kernel for permission to use AMX's tile registers,
// which then holds for every thread of the process.
const CpuFeatures& cpu_features();

// Those of them that kernels of the set `isa` may use.
CpuFeatures features_within(std::string_view isa);

// CPUs this process may run on: its affinity mask on Linux, else the machine's count.
int num_cores();

}  // namespace kept
